// typed-array-utils ships its sources, which use this name of the browser's library; our build has no such library.

type BufferSource = ArrayBufferView | ArrayBuffer
