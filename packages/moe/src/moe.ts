/**
 * DeepSeekMoE (DeepSeek-V3, arXiv 2412.19437, section 2.1.2, equations 12-16): shared experts that
 * every token visits, and E fine-grained ones of which it visits K.
 *
 *   B batch, T tokens, N = B T, D hidden, F expert width, E experts, K picked per token
 */
import {
  add,
  cast,
  expandDims,
  groupedLinear,
  groupedLinears,
  linear,
  linears,
  mul,
  remat,
  reshape,
  swiglu,
  type Tensor,
} from "@dsv3/tensor";
import type { MlpParams, MoeConfig, MoeParams } from "./config.ts";
import { combine, dispatch, dispatchWeights, expertLoad, planDispatch } from "./dispatch.ts";
import { type Routing, route } from "./route.ts";

/** down(silu(gate x) · up x) for x [..., D]. */
export function mlp(p: MlpParams, x: Tensor): Tensor {
  const [gate, up] = linears(x, [p.gateProj, p.upProj]) as [Tensor, Tensor];
  return linear(swiglu(gate, up), p.downProj);
}

/** silu(gate) · up, times a weight for each row; the derivative computes what is between again. */
const weightedSwiglu = remat((gate: Tensor, up: Tensor, weights: Tensor): Tensor => {
  const activated = swiglu(cast(gate, "f32"), cast(up, "f32"));
  return cast(mul(activated, expandDims(weights, 1)), gate.dtype);
});

export interface MoeResult {
  readonly output: Tensor; // [B, T, D]
  readonly routing: Routing;
  /** Tokens that came to each expert: f32 [E], summing to N K. */
  readonly load: Tensor;
}

/**
 * x [B, T, D] through shared and routed experts, without the residual (eq. 12). Tokens that are false
 * in `real`, bool [B, T], are padding: no expert computes them, and their output means nothing.
 */
export function moe(p: MoeParams, x: Tensor, c: MoeConfig, real?: Tensor): MoeResult {
  const tokens = reshape(x, [-1, c.hiddenSize]); // [N, D]
  const shared = p.sharedExperts && mlp(p.sharedExperts, tokens);
  const routing = route(p, tokens, c);
  const plan = planDispatch(routing.experts, c.nRoutedExperts, real && reshape(real, [-1]));

  const rows = dispatch(tokens, plan); // [N K, D]
  const { gateProj, upProj, downProj } = p.experts;
  const [gate, up] = groupedLinears(rows, [gateProj, upProj], plan.offsets) as [Tensor, Tensor];
  // Outputs of experts are weighted (eq. 12): since down is linear, so may be its narrower inputs.
  const hidden = weightedSwiglu(gate, up, dispatchWeights(routing.weights, plan)); // [N K, F]
  const routed = combine(groupedLinear(hidden, downProj, plan.offsets), plan); // [N, D]

  const output = shared ? add(shared, routed) : routed;
  return { output: reshape(output, x.shape), routing, load: expertLoad(plan) };
}
