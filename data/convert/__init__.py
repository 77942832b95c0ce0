"""Write a data set in another layout: `python -m data.convert ROOT --to yolo OUT`.

One module per layout that can be written, and `runner`, which reads any layout of the kind and writes one of them.
"""
