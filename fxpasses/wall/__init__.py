"""The second wall: while a file is read, traced or run that anybody may have written, it can do nothing else.

The readers let nothing in that could act; were one of them wrong, what comes through still could start no
program, reach no network, load no library and change no file. ``events`` says what is forbidden, ``wall``
puts it up and takes it down, ``marks`` remembers which models in memory came from such a file,
``clock`` limits seconds and memory.

It is no sandbox: code in this process that knows of it can get around it. It stops what is not expected.

May import: ``errors`` only. Start in ``wall``.
"""
