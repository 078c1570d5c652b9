"""A mutation fuzzer for everything that reads files and messages from outside.

`targets` says what is made, damaged and read; `mutations` damages; `child` does it in a process with limits;
`campaign` starts such processes, outlives their crashes and counts what they find. By hand::

    PYTHONPATH=.:Testing/Python python -m fuzzing.campaign --inputs 10000
"""
