"""Sweeps: the same problems under many KV budgets, one measured cell after the other.

A cell (model, task, budget, policy) has the server to itself, so that its tokens per second are its
own. Rows are appended as answers arrive, and a run that was stopped goes on where it stopped:

- answers that are there are not asked for again; failed requests are;
- a server that goes away is waited for, and its cell goes on in the same way;
- a cell that was interrupted continues in a new *segment*. Its wall clock is the sum over the
  segments. Tokens of answers that the interruption cut off are not counted though they took time,
  so an interrupted cell may look slower than it is, never faster; reports mark it.
"""
