/** A norm in which perturbations are measured. */
export type Norm = 'linf' | 'l2'

/**
 * One attack: iterated steps along the gradient inside a ball. Sizes are in pixel units, the original image range being [0, 1].
 * Every known gradient attack here is this loop with other parameters.
 */
export interface Attack {
  readonly name: string
  readonly norm: Norm
  /** Radius of the ball. */
  readonly epsilon: number
  readonly steps: number
  /** Length of a step. */
  readonly stepSize: number
  readonly restarts: number
  /** Where a run begins: at the image, anywhere in the ball, or half-way to one of its corners (R+FGSM). */
  readonly start: 'clean' | 'uniform' | 'corner'
}

export type AttackName = 'fgsm' | 'rfgsm' | 'bim' | 'pgd'
export const attackNames: readonly AttackName[] = ['fgsm', 'rfgsm', 'bim', 'pgd']

/** A step of 2.5·ε/steps reaches the border from anywhere in the ball (Madry et al. 2018, arXiv 1706.06083, §C). */
const REACH = 2.5

/**
 * The named attacks as parameters of the one loop.
 * fgsm: Goodfellow et al. 2015 (arXiv 1412.6572) · rfgsm: Tramèr et al. 2018 (arXiv 1705.07204), α = ε/2 ·
 * bim: Kurakin et al. 2017 (arXiv 1607.02533) · pgd: Madry et al. 2018.
 */
export function namedAttack(name: AttackName, o: { epsilon: number; norm: Norm; steps: number; restarts: number }): Attack {
  const { epsilon, norm, steps, restarts } = o
  switch (name) {
    case 'fgsm':
      return { name, norm, epsilon, steps: 1, stepSize: epsilon, restarts: 1, start: 'clean' }
    case 'rfgsm':
      return { name, norm, epsilon, steps: 1, stepSize: epsilon / 2, restarts, start: 'corner' }
    case 'bim':
      return { name, norm, epsilon, steps, stepSize: epsilon / steps, restarts: 1, start: 'clean' }
    case 'pgd':
      return { name, norm, epsilon, steps, stepSize: (REACH * epsilon) / steps, restarts, start: 'uniform' }
  }
}
