// Arithmetic expressions of whole numbers with + - * and parentheses: a parser that is also the evaluator. Nothing that
// a model wrote is ever run as code.

/** Value of an expression and the numbers in it, in order. */
export interface Expression {
  readonly value: number
  readonly numbers: readonly number[]
}

/** Whole numbers that are exact; NaN, which no operation turns back into a number, for what is not. */
const exact = (value: number): number => (Number.isSafeInteger(value) ? value : Number.NaN)

/**
 * Reads an expression without signs in front of numbers and without spaces; undefined when it is malformed or one of its
 * values is not exact. Numbers have at most six digits and no leading zeros, nesting is at most 16.
 */
export function parseExpression(text: string): Expression | undefined {
  const numbers: number[] = []
  let at = 0
  let depth = 0
  const fail = Number.NaN
  const atom = (): number => {
    if (text[at] === '(') {
      at++
      if (++depth > 16) return fail
      const value = sum()
      depth--
      if (text[at++] !== ')') return fail
      return value
    }
    const digits = /^(0|[1-9]\d{0,5})/.exec(text.slice(at, at + 7))?.[0]
    if (digits === undefined) return fail
    at += digits.length
    numbers.push(Number(digits))
    return Number(digits)
  }
  const product = (): number => {
    let value = atom()
    while (text[at] === '*') {
      at++
      value = exact(value * atom())
    }
    return value
  }
  const sum = (): number => {
    let value = product()
    while (text[at] === '+' || text[at] === '-')
      value = exact(text[at++] === '+' ? value + product() : value - product())
    return value
  }
  const value = sum()
  return at === text.length && Number.isSafeInteger(value) ? { value, numbers } : undefined
}
