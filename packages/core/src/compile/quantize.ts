import type { Graph } from '../ir/graph.ts'
import { correctBias } from '../passes/correctBias.ts'
import { equalize } from '../passes/equalize.ts'
import { insertQuantizers, planQuantization, type QuantPlan } from '../passes/insertQuantizers.ts'
import { lower } from '../passes/lower.ts'
import { type Pass, runPasses } from '../passes/pass.ts'
import { calibrate, type Ranges } from '../quant/calibrate.ts'
import type { KernelRules } from '../quant/rules.ts'
import type { QuantSpec } from '../quant/spec.ts'
import { type Batches, outputError } from '../run/compare.ts'
import type { Engine } from '../run/engine.ts'

export interface QuantizeOptions {
  readonly spec: QuantSpec
  /** auto: kept where it lowers the error of the outputs on calibration data. */
  readonly equalize: 'auto' | 'on' | 'off'
  readonly biasCorrection: boolean
  readonly rules: KernelRules
  /** Canonical scaling (see `balance`) before anything is measured; null: none. */
  readonly canonical: Pass<'float'> | null
  /** Told what is being done, and how many samples a pass over the data has seen. */
  readonly onProgress?: (step: string, samples: number) => void
}

/** The network at all three levels, and what was decided on the way. */
export interface QuantizedNetwork {
  /** The float graph whose weights the others quantize. */
  readonly float: Graph<'float'>
  readonly qdq: Graph<'qdq'>
  readonly integer: Graph<'integer'>
  readonly plan: QuantPlan
  readonly ranges: Ranges
  readonly equalized: boolean
}

/**
 * Post-training quantization of a prepared float graph: calibrate, equalize, plan, correct biases, lower.
 * `calibration` are the inputs that set the ranges, `tuning` (usually fewer) those that choices are measured on.
 */
export async function quantizeNetwork(
  engine: Engine,
  graph: Graph<'float'>,
  calibration: Batches,
  tuning: Batches,
  options: QuantizeOptions,
): Promise<QuantizedNetwork> {
  const { spec, rules } = options
  const attempt = async (g: Graph<'float'>, step: string): Promise<{ g: Graph<'float'>; ranges: Ranges; plan: QuantPlan }> => {
    const scaled = options.canonical ? runPasses(g, [options.canonical]) : g
    const ranges = await calibrate(engine, scaled, calibration(), (n) => options.onProgress?.(step, n))
    return { g: scaled, ranges, plan: planQuantization(scaled, spec, ranges, rules) }
  }
  const equal = options.equalize === 'off' ? graph : runPasses(graph, [equalize])
  let best = await attempt(equal, 'calibrate')
  let equalized = equal !== graph
  if (options.equalize === 'auto' && equal !== graph) {
    const plain = await attempt(graph, 'calibrate without equalization')
    const error = (a: typeof best): Promise<number> => outputError(engine, a.g, insertQuantizers(a.g, a.plan).graph, tuning)
    if ((await error(plain)) <= (await error(best))) {
      best = plain
      equalized = false
    }
  }
  const corrected = options.biasCorrection
    ? await correctBias(engine, best.g, best.plan, tuning, () => options.onProgress?.('correct biases', 0))
    : best.g
  options.onProgress?.('lower', 0)
  const qdq = insertQuantizers(corrected, best.plan).graph
  return { float: corrected, qdq, integer: lower(qdq, rules, spec.integerIO), plan: best.plan, ranges: best.ranges, equalized }
}
