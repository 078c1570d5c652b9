"""A night's run over a cohort: every case ends with a result or with the reason why there is none.

`run_batch` does it (see docs/batch.md); every door reaches it through `LiverMarginLib.jobs.batch.BatchJob`.

| file | what |
|---|---|
| `discovery`, `case_list` | which images are cases, by rules that are printed |
| `registry` | what the cases are called in everything that is written |
| `lock` | one run at a time in one folder |
| `stages` | the three jobs of a case: read, segment, finish; each runs in a worker process |
| `processes`, `pipeline` | warm workers, replaced when they die, hang or grow; the order of the stages |
| `cluster` | the same on a Dask cluster |
| `records`, `tables` | one record a case; cases.csv, run.json and the HTML summary made from them |
"""
