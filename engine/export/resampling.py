"""Resizing in exported graphs, as OpenCV and Pillow resize 8-bit images: ONNX text.

ONNX's own operator Resize has other filters and another rounding. Texts of this module use the values `photo`
(H, W, 3) uint8, `size` and `out`, (height, width) int64 of the photograph and of the result, and the constants in
`CONSTANTS`. Each text defines one value: (h, w, 3) or (3, h, w) float32 of whole numbers in 0..255.
"""

from __future__ import annotations

from typing import Literal

Axis = Literal["y", "x"]
AXES: dict[Axis, int] = {"y": 0, "x": 1}
BITS = 11  # of OpenCV's weights of linear interpolation: INTER_RESIZE_COEF_BITS in its resize.cpp
CUBIC = -0.5  # the parameter of Pillow's bicubic filter: `a` in its Resample.c

CONSTANTS = f"""
    double zero_f64 = {{0.0}}, double half_f64 = {{0.5}}, double one_f64 = {{1.0}}, double two_f64 = {{2.0}},
    float zero_f32 = {{0.0}}, float half_f32 = {{0.5}}, float one_f32 = {{1.0}}, float white = {{255.0}},
    float unit = {{{2**BITS}.0}}, int64[1] first = {{0}}, int64[1] second = {{1}}, int64[1] third = {{2}},
    int32 four = {{4}}, int32 two_i32 = {{2}}, int32 sixteen = {{16}}, int32 high_word = {{65536}},
    int64[2] rows_of_values = {{0, -1}}, int64[1] three = {{3}}, int64[1] rest = {{-1}}"""


def linear() -> str:
    """`linear_pixels` (h, w, 3): `cv2.resize` with INTER_LINEAR of uint8, equal in each value.

    OpenCV multiplies by integer weights of `BITS` bits, first along x, then along y, and drops low bits in between.
    """
    return f"""
      {_scale("y")} {_scale("x")}
      {_neighbours("y")} {_neighbours("x")}
      levels = Cast<to = 6>(photo)
      left = Gather<axis = 1>(levels, x_before)
      right = Gather<axis = 1>(levels, x_after)
      x_low_column = Unsqueeze(x_low, second)
      x_high_column = Unsqueeze(x_high, second)
      left_part = Mul(left, x_low_column)
      right_part = Mul(right, x_high_column)
      across = Add(left_part, right_part)
      shortened = Div(across, sixteen)
      above = Gather<axis = 0>(shortened, y_before)
      below = Gather<axis = 0>(shortened, y_after)
      y_axes = Concat<axis = 0>(second, third)
      y_low_row = Unsqueeze(y_low, y_axes)
      y_high_row = Unsqueeze(y_high, y_axes)
      above_product = Mul(above, y_low_row)
      below_product = Mul(below, y_high_row)
      above_part = Div(above_product, high_word)
      below_part = Div(below_product, high_word)
      down = Add(above_part, below_part)
      with_half = Add(down, two_i32)
      quarter = Div(with_half, four)
      linear_pixels = Cast<to = 1>(quarter)"""


def area() -> str:
    """`area_pixels` (h, w, 3): `cv2.resize` with INTER_AREA to a smaller size, up to the order of sums."""
    return f"""
      {_scale("y")} {_scale("x")}
      {_overlaps("y")} {_overlaps("x")}
      values = Cast<to = 1>(photo)
      flat = Reshape(values, rows_of_values)
      rows = MatMul(y_weights, flat)
      out_height = Slice(out, first, second)
      width = Slice(size, second, third)
      wide_shape = Concat<axis = 0>(out_height, width, three)
      wide = Reshape(rows, wide_shape)
      wide_first = Transpose<perm = [1, 0, 2]>(wide)
      out_width = Slice(out, second, third)
      columns_shape = Concat<axis = 0>(width, rest)
      columns = Reshape(wide_first, columns_shape)
      both = MatMul(x_weights, columns)
      both_shape = Concat<axis = 0>(out_width, out_height, three)
      both_apart = Reshape(both, both_shape)
      averages = Transpose<perm = [1, 0, 2]>(both_apart)
      area_pixels = Round(averages)"""


def pillow(filter: Literal["bilinear", "bicubic"]) -> str:
    """`pillow_pixels` (3, h, w): Pillow's `resize`, up to ties of its rounding after each axis."""
    return f"""
      {_scale("y")} {_scale("x")}
      {_filtered("y", filter)} {_filtered("x", filter)}
      values = Cast<to = 1>(photo)
      channels_first = Transpose<perm = [2, 0, 1]>(values)
      x_transposed = Transpose<perm = [1, 0]>(x_weights)
      across = MatMul(channels_first, x_transposed)
      {_rounded("across", "across_pixels")}
      down = MatMul(y_weights, across_pixels)
      {_rounded("down", "pillow_pixels")}"""


def _scale(axis: Axis) -> str:
    """`AXIS_in`, `AXIS_out`: lengths; `AXIS_scale`: source pixels per pixel; `AXIS_index` (out,). All float64."""
    a, k = axis, AXES[axis]
    return f"""
      {a}_number = Constant<value = int64 {{{k}}}>()
      {a}_in_int = Gather<axis = 0>(size, {a}_number)
      {a}_out_int = Gather<axis = 0>(out, {a}_number)
      {a}_in = Cast<to = 11>({a}_in_int)
      {a}_out = Cast<to = 11>({a}_out_int)
      {a}_scale = Div({a}_in, {a}_out)
      {a}_index = Range(zero_f64, {a}_out, one_f64)"""


def _neighbours(axis: Axis) -> str:
    """`AXIS_before`, `AXIS_after`: the two source pixels of each pixel; `AXIS_low`, `AXIS_high`: their int32 weights.

    Outside of the image, OpenCV repeats the border: along x with weight 1 of one pixel, along y with both weights,
    whose sum is smaller after rounding.
    """
    a = axis
    part = f"{a}_part = Sub({a}_place, {a}_floor)"
    if axis == "x":
        part = f"""
      {a}_part_inside = Sub({a}_place, {a}_floor)
      {a}_left_of = Less({a}_floor, zero_f32)
      {a}_right_of = GreaterOrEqual({a}_floor, {a}_last)
      {a}_outside = Or({a}_left_of, {a}_right_of)
      {a}_part = Where({a}_outside, zero_f32, {a}_part_inside)"""
    return f"""
      {a}_centre = Add({a}_index, half_f64)
      {a}_scaled = Mul({a}_centre, {a}_scale)
      {a}_exact = Sub({a}_scaled, half_f64)
      {a}_place = Cast<to = 1>({a}_exact)
      {a}_floor = Floor({a}_place)
      {a}_last_exact = Sub({a}_in, one_f64)
      {a}_last = Cast<to = 1>({a}_last_exact)
      {part}
      {a}_before_f32 = Clip({a}_floor, zero_f32, {a}_last)
      {a}_before = Cast<to = 7>({a}_before_f32)
      {a}_next = Add({a}_floor, one_f32)
      {a}_after_f32 = Clip({a}_next, zero_f32, {a}_last)
      {a}_after = Cast<to = 7>({a}_after_f32)
      {a}_high_exact = Mul({a}_part, unit)
      {a}_high_f32 = Round({a}_high_exact)
      {a}_high = Cast<to = 6>({a}_high_f32)
      {a}_other = Sub(one_f32, {a}_part)
      {a}_low_exact = Mul({a}_other, unit)
      {a}_low_f32 = Round({a}_low_exact)
      {a}_low = Cast<to = 6>({a}_low_f32)"""


def _overlaps(axis: Axis) -> str:
    """`AXIS_weights` (out, in) float32: the share of each source pixel in the area of each pixel."""
    a = axis
    return f"""
      {a}_start = Mul({a}_index, {a}_scale)
      {a}_end = Add({a}_start, {a}_scale)
      {a}_starts = Unsqueeze({a}_start, second)
      {a}_ends = Unsqueeze({a}_end, second)
      {a}_source = Range(zero_f64, {a}_in, one_f64)
      {a}_source_end = Add({a}_source, one_f64)
      {a}_from = Max({a}_starts, {a}_source)
      {a}_to = Min({a}_ends, {a}_source_end)
      {a}_length = Sub({a}_to, {a}_from)
      {a}_overlap = Max({a}_length, zero_f64)
      {a}_share = Div({a}_overlap, {a}_scale)
      {a}_weights = Cast<to = 1>({a}_share)"""


def _filtered(axis: Axis, filter: Literal["bilinear", "bicubic"]) -> str:
    """`AXIS_weights` (out, in) float32: a filter around each pixel's centre, as wide as the pixel if that is larger."""
    a = axis
    if filter == "bilinear":
        value = f"""
      {a}_fall = Sub(one_f64, {a}_distance)
      {a}_value = Max({a}_fall, zero_f64)"""
    else:
        value = f"""
      {a}_near3 = Constant<value = double {{{CUBIC + 2}}}>()
      {a}_near2 = Constant<value = double {{{CUBIC + 3}}}>()
      {a}_far3 = Constant<value = double {{{CUBIC}}}>()
      {a}_five = Constant<value = double {{5.0}}>()
      {a}_eight = Constant<value = double {{8.0}}>()
      {a}_four = Constant<value = double {{4.0}}>()
      {a}_n1 = Mul({a}_distance, {a}_near3)
      {a}_n2 = Sub({a}_n1, {a}_near2)
      {a}_n3 = Mul({a}_n2, {a}_distance)
      {a}_n4 = Mul({a}_n3, {a}_distance)
      {a}_near = Add({a}_n4, one_f64)
      {a}_f1 = Sub({a}_distance, {a}_five)
      {a}_f2 = Mul({a}_f1, {a}_distance)
      {a}_f3 = Add({a}_f2, {a}_eight)
      {a}_f4 = Mul({a}_f3, {a}_distance)
      {a}_f5 = Sub({a}_f4, {a}_four)
      {a}_far = Mul({a}_f5, {a}_far3)
      {a}_is_far = Less({a}_distance, two_f64)
      {a}_is_near = Less({a}_distance, one_f64)
      {a}_far_or_none = Where({a}_is_far, {a}_far, zero_f64)
      {a}_value = Where({a}_is_near, {a}_near, {a}_far_or_none)"""
    return f"""
      {a}_centre_out = Add({a}_index, half_f64)
      {a}_centre = Mul({a}_centre_out, {a}_scale)
      {a}_centres = Unsqueeze({a}_centre, second)
      {a}_source = Range(zero_f64, {a}_in, one_f64)
      {a}_source_centre = Add({a}_source, half_f64)
      {a}_offset = Sub({a}_source_centre, {a}_centres)
      {a}_width = Max({a}_scale, one_f64)
      {a}_relative = Div({a}_offset, {a}_width)
      {a}_distance = Abs({a}_relative)
      {value}
      {a}_sum = ReduceSum({a}_value, second)
      {a}_normalised = Div({a}_value, {a}_sum)
      {a}_weights = Cast<to = 1>({a}_normalised)"""


def _rounded(value: str, name: str) -> str:
    """A value in 0..255 rounded to whole numbers; halves up."""
    return f"""
      {name}_shifted = Add({value}, half_f32)
      {name}_whole = Floor({name}_shifted)
      {name} = Clip({name}_whole, zero_f32, white)"""
