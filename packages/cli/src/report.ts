import type { ActivationUse, Cost, LayerReport, MappedOperator, Measurement } from '@dqc/core'

import type { FinetuneReport } from './finetune.ts'

export const REPORT_SCHEMA = 'dqc-report-1'

export interface Gate {
  readonly limit: number
  readonly value: number
  readonly passed: boolean
}

/** What a conversion measured. Shares are fractions in 0..1. The schema is published as report.schema.json. */
export interface Report {
  readonly schema: typeof REPORT_SCHEMA
  readonly version: string
  readonly model: {
    readonly path: string
    readonly sha256: string
    readonly format: string
    /** How the batch axis was treated: already symbolic, lifted from a fixed one, or the size that the file insists on. */
    readonly batch: 'symbolic' | 'lifted' | number
    readonly macs: number
  }
  readonly target: string
  readonly format: string
  /** accuracy: share of right answers. relativeError: mean ‖y − y_float‖/‖y_float‖. */
  readonly metric: 'accuracy' | 'relativeError'
  readonly before: Measurement
  readonly after: Measurement
  readonly artifact: {
    readonly files: readonly { readonly path: string; readonly bytes: number; readonly sha256: string }[]
    readonly runtime: string
    readonly compared: number
    readonly mismatches: number
    readonly maxErrorSteps: number
    readonly skipped: string | null
    /** Kernels whose results may be one step off the reference, with the reason. */
    readonly inexact: readonly string[]
    /** For targets with an accelerator: where each operator of the file runs, why, and what would change it. */
    readonly mapping: readonly MappedOperator[] | null
    /** For C: bytes of static memory, of constants, and of code and constants together in a build for small size (null: not measured). */
    readonly memory: { readonly ram: number; readonly constants: number; readonly flash: number | null } | null
  }
  readonly bits: {
    readonly weights: { readonly grid: number; readonly storage: number; readonly edges: number }
    readonly activations: { readonly grid: number; readonly storage: number; readonly edges: number; readonly sums: number }
  }
  readonly data: {
    readonly source: string
    readonly samples: number
    /** data: the data set's. model: the float network's own answers. none: the network is no classifier. */
    readonly labels: 'data' | 'model' | 'none'
    readonly calibration: { readonly source: string; readonly samples: number }
    readonly synthetic: boolean
  }
  readonly layers: readonly LayerReport[]
  /** What the integer network takes of hardware, layer by layer; null for networks in real numbers. */
  readonly cost: Cost | null
  /** How the quantized activations use their grids, on calibration data. */
  readonly activations: readonly ActivationUse[]
  /** Training runs, in order; none where nothing was trained. */
  readonly finetuning: readonly FinetuneReport[]
  /** Nodes that stay float, with the reason. */
  readonly floatNodes: readonly { readonly name: string; readonly op: string; readonly reason: string }[]
  readonly equalized: boolean
  readonly seed: number
  readonly options: Readonly<Record<string, unknown>>
  readonly gates: { readonly maxDrop: Gate | null; readonly maxRobustDrop: Gate | null }
  readonly notes: readonly string[]
}
