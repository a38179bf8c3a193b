// The look of a report: one style sheet for light and dark pages and for print. No outside fonts or images.

/** Ink, lines and page, then the colours c0 .. c5 of series: blue, orange, green, violet, ochre, grey. */
const light =
  '--ink:#1d2329;--soft:#66707a;--line:#e2e6ea;--page:#fcfcfa;--card:#fff;--c0:#2563c9;--c1:#b9541b;--c2:#25794e;--c3:#7a4cc4;--c4:#94700a;--c5:#5b6570'
const dark =
  '--ink:#e4e8ec;--soft:#97a1ab;--line:#2e353c;--page:#14171a;--card:#1a1e22;--c0:#74a9f7;--c1:#ee9a66;--c2:#6cc59c;--c3:#b79af2;--c4:#dcbd55;--c5:#aeb8c2'

const colors = [0, 1, 2, 3, 4, 5]
  .map((i) => `.line.c${i},.bar.c${i}{stroke:var(--c${i})}circle.c${i},.fill.c${i}{fill:var(--c${i})}`)
  .join('')

/** The style sheet. */
export const style = `:root{color-scheme:light dark;${light}}
@media (prefers-color-scheme:dark){:root{${dark}}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:66rem;padding:3rem 1.5rem 5rem;background:var(--page);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;font-variant-numeric:tabular-nums}
h1{font-size:1.6rem;font-weight:650;letter-spacing:-.01em;margin:0}
h2{font-size:1.05rem;font-weight:650;margin:2.75rem 0 .75rem}
.lead{font-size:1.05rem;max-width:48rem;margin:.6rem 0 0}
.soft{color:var(--soft)}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:.9rem 1.5rem;margin:1.5rem 0 2rem}
dt{color:var(--soft);font-size:12px}dd{margin:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1.25rem}
figure{margin:0;padding:1rem 1rem .5rem;background:var(--card);border:1px solid var(--line);border-radius:8px}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{fill:var(--ink);font-size:11px}
svg .title{font-size:13px;font-weight:600}svg .name{font-size:12px}svg .value{font-size:15px;font-weight:600}
svg .tick{fill:var(--soft);font-size:10.5px}svg .legend{fill:var(--soft)}
.grid{stroke:var(--line)}.track{fill:var(--line);opacity:.55}.fill{opacity:.82}
.line{fill:none;stroke-width:1.7;stroke-linejoin:round}.dashed{stroke-dasharray:4 3}.bar{stroke-width:1.5}line.bar.c5{stroke:var(--ink)}
${colors}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:.4rem 1rem .4rem 0;border-bottom:1px solid var(--line);font-weight:400;vertical-align:top}
thead th{color:var(--soft);font-size:12px}
code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.mark{display:inline-block;width:1.3em;font-weight:700}.right .mark{color:var(--c2)}.wrong .mark{color:var(--c1)}.wrong code{color:var(--soft)}
.warnings{padding-left:1.2rem;margin:0}
details{margin-top:2.5rem}summary{cursor:pointer;color:var(--soft)}
@media print{body{padding:0}figure,tr{break-inside:avoid}}`
