/** Changes of one character that make a text of another: Levenshtein's distance. */
export function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const above = row
    row = [i]
    for (let j = 1; j <= b.length; j++)
      row.push(Math.min(row[j - 1] + 1, above[j] + 1, above[j - 1] + Number(a[i - 1] !== b[j - 1])))
  }
  return row[b.length]
}
