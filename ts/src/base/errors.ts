// The one error class of the package and the table of its codes. Everything that refuses an input or
// reports a failure throws a WhetstoneError, so that callers can branch on `code` and people can read
// what was expected, what came and what to do. Imports nothing.

/** Every code that a WhetstoneError can carry, with the kind of failure that it stands for. */
export const errorCodes = {
  E_SHAPE: 'a tensor has the wrong shape for the operation',
  E_DTYPE: 'a tensor has the wrong element type for the operation',
  E_DEVICE: 'the device is unknown, unavailable or not the one that holds the tensor',
  E_NO_KERNEL: 'the operation has no kernel on this device',
  E_OOM: 'the device has not enough memory; the process can go on with smaller work',
  E_DEVICE_LOST: 'the device failed for good; the process must be restarted to use it again',
  E_DISPOSED: 'a tensor or model was used after it had been disposed',
  E_NONFINITE: 'a number that must be finite is NaN or infinite',
  E_CONFIG: 'an option is unknown, missing or out of range',
  E_FORMAT: 'a file does not follow its format',
  E_LIMIT: 'an input is larger than the limit for its kind',
  E_TORN: 'a file is incomplete or damaged',
  E_MISMATCH: 'two things that must agree differ',
  E_PATH: 'a path leaves its folder or is not allowed',
  E_TEMPLATE: 'a chat template cannot be rendered',
  E_VERIFIER: 'a checker of samples failed',
  E_IO: 'the operating system refused a file operation',
  E_VERSION: 'a file was written by a version that cannot be read',
  E_ABORTED: 'the work was stopped by its signal',
  E_NATIVE: 'the native addon cannot be loaded',
  E_INTERNAL: 'a defect of this package',
} as const

/** One of the stable error codes. */
export type ErrorCode = keyof typeof errorCodes

const brand = Symbol.for('whetstone.error')

/**
 * The only error that this package throws on purpose.
 *
 * The text reads `[where] what was expected, what came, what to do`; `details` holds the same facts as data.
 */
export class WhetstoneError extends Error {
  readonly code: ErrorCode
  /** Where it happened: an op (`rms_norm`), a file (`rows.jsonl:12`), an option (`--learningRate`). */
  readonly where: string
  readonly details: Readonly<Record<string, unknown>>

  constructor(
    code: ErrorCode,
    where: string,
    message: string,
    options: { cause?: unknown; details?: Record<string, unknown> } = {},
  ) {
    super(`[${where}] ${message}`, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'WhetstoneError'
    this.code = code
    this.where = where
    this.details = options.details ?? {}
    Object.defineProperty(this, brand, { value: true })
  }

  /** True for a WhetstoneError of any copy of this package in the process. */
  static isInstance(value: unknown): value is WhetstoneError {
    return typeof value === 'object' && value !== null && (value as Record<symbol, unknown>)[brand] === true
  }
}

/** The text of an unknown thrown value. */
export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))
