export {
  initMlp,
  initMoe,
  type MlpParams,
  type MoeConfig,
  type MoeParams,
  mlpParamShapes,
  moeParamShapes,
} from "./config.ts";
export { combine, type Dispatch, dispatch, expertLoad, planDispatch } from "./dispatch.ts";
export { type MoeResult, mlp, moe } from "./moe.ts";
export { balanceLoss, type Routing, route, updateBias } from "./route.ts";
