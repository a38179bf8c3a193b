// reshape(): a new shape for the same elements. No kernel runs; the tape sees it, so gradients pass through.

import { activeTape } from '../autograd/tape.js'
import { checkShape, type Shape, sizeOf } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'

/**
 * The same elements under another shape of equal size; shares the memory.
 *
 * @throws WhetstoneError E_SHAPE when the sizes differ
 */
export function reshape(x: Tensor, shape: Shape): Tensor {
  checkShape(sizeOf(shape) === x.size, 'reshape', `a shape of ${x.size} elements`, shape)
  const y = x.view(shape)
  const from = x.shape
  activeTape()?.add({
    name: 'reshape',
    inputs: { x },
    outputs: { y },
    saves: [],
    p: {},
    rule: ({ d }) => ({ x: d.y?.view(from) }),
  })
  return y
}
