import { errors } from '../ir/errors.ts'
import type { Norm } from '../passes/attackStep.ts'

/**
 * One attack. Sizes are in pixel units, the original image range being [0, 1]. Every gradient attack is one loop of steps inside a ball
 * with other parameters; gradient-free ones search the same ball by queries.
 */
export interface Attack {
  readonly name: string
  readonly norm: Norm
  /** Radius of the ball. */
  readonly epsilon: number
  /** Steps along the gradient; of a gradient-free attack, its queries per run. */
  readonly steps: number
  /** Whether it needs nothing but the model's outputs. */
  readonly gradientFree: boolean
  /** Length of a step. */
  readonly stepSize: number
  readonly restarts: number
  /** Where a run begins: at the image, anywhere in the ball, or half-way to one of its corners (R+FGSM). */
  readonly start: 'clean' | 'uniform' | 'corner'
}

export type AttackName = 'fgsm' | 'rfgsm' | 'bim' | 'pgd' | 'square'
export const attackNames: readonly AttackName[] = ['fgsm', 'rfgsm', 'bim', 'pgd', 'square']

/** A step of 2.5·ε/steps reaches the border from anywhere in the ball (Madry et al. 2018, arXiv 1706.06083, §C). */
const REACH = 2.5

/**
 * The named attacks as parameters of the one loop.
 * fgsm: Goodfellow et al. 2015 (arXiv 1412.6572) · rfgsm: Tramèr et al. 2018 (arXiv 1705.07204), α = ε/2 ·
 * bim: Kurakin et al. 2017 (arXiv 1607.02533) · pgd: Madry et al. 2018 · square: Andriushchenko et al. 2020 (arXiv 1912.00049), ℓ∞.
 * Throws CompileError where the attack does not exist in the norm.
 */
export function namedAttack(
  name: AttackName,
  o: { epsilon: number; norm: Norm; steps: number; restarts: number; queries?: number },
): Attack {
  const { epsilon, norm, steps, restarts } = o
  const base = { name, norm, epsilon, gradientFree: false }
  switch (name) {
    case 'fgsm':
      return { ...base, steps: 1, stepSize: epsilon, restarts: 1, start: 'clean' }
    case 'rfgsm':
      return { ...base, steps: 1, stepSize: epsilon / 2, restarts, start: 'corner' }
    case 'bim':
      return { ...base, steps, stepSize: epsilon / steps, restarts: 1, start: 'clean' }
    case 'pgd':
      return { ...base, steps, stepSize: (REACH * epsilon) / steps, restarts, start: 'uniform' }
    case 'square':
      if (norm !== 'linf') throw errors.usage('the square attack is made for the linf norm')
      return { ...base, gradientFree: true, steps: o.queries ?? 1000, stepSize: epsilon, restarts, start: 'clean' }
  }
}
