"""The words around the tables of scaling.md. Names in angle brackets are where :mod:`scaling` puts them."""

BEFORE = """# From 1 to 1,024 GPUs, on paper

What training an upcycled ViT holds and moves on each GPU when it is spread by `training.parallel` (`ddp`, `fsdp`) and
`training.expert_parallel` (EP), and from where on spreading the experts pays. Nothing here was timed on GPUs: the bytes
are formulas, which small runs confirm to the byte (last section), the times are bytes over the links below.
`python benchmarks/scaling.py` writes this file and takes other hardware (`--inside 300e9 --between 25e9 …`).

## Inputs

<hardware>

Memory, peak and NVLink (900 GB/s both ways together): NVIDIA H100 Tensor Core GPU data sheet, SXM. Eight GPUs and eight
400 Gb/s links a machine: NVIDIA DGX H100 data sheet. Latencies, the share of the peak and of the links are assumptions.
Parameters, gradients, AdamW's averages and sums of gradients are float32; products, gathered parameters and tokens on
their way to experts bfloat16. 64 images a GPU and step, one micro-batch, no activation checkpointing, experts evenly
loaded. MLPs of the last half of the blocks are upcycled, one expert a token unless said otherwise.

<models>

## Formulas

P_d numbers in parameters outside the experts, P_e in the experts; W GPUs, n of which share the experts, so that W / n
have the same ones; L MoE layers of width D, R = images x tokens x experts a token, E experts a layer.

| bytes a GPU hands to collectives in a step | DDP | FSDP |
|---|---|---|
| outside the experts | sum 4 P_d | gather 2 x 2 P_d, scatter 4 P_d |
| experts, not spread | sum 4 P_e | gather 2 x 2 P_e, scatter 4 P_e |
| experts, spread, among W / n | sum 4 P_e / n | gather 2 x 2 P_e / n, scatter 4 P_e / n |
| rows to experts and back, both passes, among n | exchange L (4 x 2 R D + 8 E) | the same |
| balance loss of all processes | sum 4 L (2 E + 3) | the same |

FSDP gathers before the forward and again before the backward pass. Its pieces are of one size, so what a parameter's
first axis cannot be divided into is padded; moezoo cuts along another axis where that would cost more than half (eight
experts in 64 pieces would travel as 64), and keeps small parameters whole.

Of S bytes, a GPU in a group with g members in each of m machines sends, in two stages (first inside, every GPU then
with its share on its own link; Thakur et al. 2005, "Optimization of Collective Communication Operations in MPICH"):

| | inside | between |
|---|---|---|
| gather, scatter | S (g - 1) / g | S / g x (m - 1) / m |
| sum | twice that | twice that |
| exchange | S (g - 1) / (g m) | S (g m - g) / (g m) |

Memory: 16 bytes a number kept (parameter, gradient, two averages), with FSDP divided by W (experts, spread: by n and
then W / n), with DDP plus autocast's bfloat16 copies, with FSDP plus two gathered blocks and the gradient of one. Kept
activations as in Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", eq. 2,
without attention maps; MoE layers keep rows, hidden units and results of every assignment.

"""
AFTER = """## Memory: GB a GPU

Struck through: more than a GPU has; empty: fewer GPUs than share the experts. The last column is the fewest GPUs, a
power of two, on which it fits.

<memory>

## A step

GB that a GPU sends inside its machine and between machines; milliseconds of computing, of what can travel meanwhile
(gradients and gathered parameters) and of what cannot (rows to experts and back). A step is the longer of the first two
plus the third. Bold: within 2 % of the best that fits.

<steps>

* Eight experts in a machine: gradients hide behind the computing, and EP only adds its exchange. Replicate (DDP), or
  FSDP for the memory.
* 32 experts and more: the experts' gradients take longer than the computing. EP inside the machine spares what they
  move inside. Between machines it spares nothing: two-stage sums moved every expert's gradient once per machine before,
  and so it is with EP. There a group over several machines (EP 32, EP 64) is what helps, as long as the batch is small
  enough for its rows, or gradients accumulated over several micro-batches.
* Beyond 80 GB of parameters, gradients and averages DDP alone is out. FSDP fits from two GPUs, but gathers every expert
  for every step; EP gathers none.

## Break-even

Images a GPU and step up to which the links have less to do with EP than without, if nothing overlapped. "In a machine":
n = min(W, 8, E); "over up to": n = min(W, 64, E), rows then cross machines. Below the number EP moves less, above it
more; since gradients can hide and rows cannot, EP needs the links to be the bottleneck (table above) as well.

<break_even>

Beside DDP the number hardly depends on W: what EP saves, the gradients of P_e (1 - 1 / n), is the same everywhere, and
so is a row's cost. Beside FSDP it falls for small models, which then gather in two kinds of groups and wait twice. It
grows with the experts a layer has and falls with the experts a token uses. Over machines it is a quarter of that inside
one, because rows then take the slow links, while gradients between machines were already divided by the GPUs of a
machine.

## The formulas against counted bytes

timm's `test_vit`, three of its MLPs upcycled to four experts, two images a process, all in float32: what forward,
backward and the exchange of gradients of one step hand to `torch.distributed`, counted at the dispatcher in gloo
processes on a CPU, a process's mean. `tests/distributed/test_scaling_formulas.py` compares them.

<measured>
"""
