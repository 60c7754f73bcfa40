"""Load tests: many requests at a set rate or concurrency, and when every token of each arrived.

What is measured, in the words of the files:

- A request is *scheduled* for a moment that was fixed before the run. With a closed loop it is the
  moment its slot became free. It is *due* then, or, under --max-concurrency, when there is a slot.
  It is *sent* as soon as the client gets to it: sent - due is the client's own lag.
- Latencies count from the scheduled time, so that a server that falls behind cannot hide it by
  making the client wait (coordinated omission). Those from the sent time stand beside them.
- The *window* starts where the warm-up ends. The warm-up is the same load, only not counted, and
  nothing is drained between the two. Requests scheduled before the window are in no latency and in
  no count of failures; what they deliver within the window is delivered work all the same.
- Throughput is what arrived within the window, of whatever request: tokens, and ends of answers.
  Goodput is the requests scheduled within the window that held every objective, over its length.
- The window ends with the schedule (or --duration). Requests in flight then are waited for and are
  in the latencies, not in the throughput; --drain-seconds limits the wait. Those that are cut off
  are counted as cut, and are in no latency. A closed loop or a trace without --duration has no end
  of its own: there the window ends with the last answer.
- Nothing is ever sent again. A failed request is counted under its gRPC status. In a closed loop
  its slot is free a tenth of a second later, so that a dead server is not stormed.
"""
