"""The page's looks: one column on a phone, light or dark as the reader's system is."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fefefd; --card: #f6f6f3; --ink: #1c1d21; --faint: #63666e; --line: #dfe1e6;
  --blue: #2468b0; --orange: #c4561d; --green: #2c8a5f; --gray: #9a9da5; --pink: #a8548f;
  --strong: #b3261e; --some: #a66300; --none: #2c7a55; --undecided: #63666e; --balanced: #2468b0; --outcome: #63666e;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, "Book Antiqua", Georgia, serif;
  --sans: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171b; --card: #1e2126; --ink: #e8e8e4; --faint: #a2a6ae; --line: #343840;
    --blue: #6fb1f2; --orange: #f2925a; --green: #62c596; --gray: #7d828c; --pink: #d88cc2;
    --strong: #ff8a80; --some: #f0b455; --none: #6fcf9f; --undecided: #a2a6ae; --balanced: #6fb1f2; --outcome: #a2a6ae;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2rem 1.1rem 5rem; max-width: 70rem;
  background: var(--paper); color: var(--ink); font: 1rem/1.55 var(--sans); overflow-wrap: break-word;
}
h1, h2, h3 { font-family: var(--serif); font-weight: 600; line-height: 1.2; text-wrap: balance; }
h1 { font-size: clamp(2rem, 6vw, 3rem); margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.7rem; margin: 4rem 0 .4rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.22rem; margin: 2.4rem 0 .3rem; }
p { margin: .5rem 0; max-width: 44rem; }
a { color: var(--blue); text-underline-offset: .15em; }
.facts, .lead, figcaption, .paper, .small { color: var(--faint); }
.facts { font-size: .94rem; margin: 0; }
.eyebrow { font-size: .78rem; letter-spacing: .09em; text-transform: uppercase;
  color: var(--faint); margin: 0 0 .5rem; }
.summary { font: 500 1.3rem/1.45 var(--serif); margin: 1.6rem 0 1rem; max-width: 50rem; }
.cautions { border-left: 3px solid var(--some); padding: .1rem 0 .1rem 1rem; margin: 1.2rem 0; }
nav { margin: 1.3rem 0 0; font-size: .94rem; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
.cards { display: grid; gap: 1rem; margin: 1.6rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); }
.card { background: var(--card); border-radius: .7rem;
  padding: 1.1rem 1.2rem 1.2rem; border-top: 4px solid var(--tone); }
.card h3 { margin: .15rem 0 .7rem; }
.tag { color: var(--tone); font-size: .78rem; font-weight: 650;
  letter-spacing: .07em; text-transform: uppercase; margin: 0; }
.strong { --tone: var(--strong); } .some { --tone: var(--some); } .none { --tone: var(--none); }
.undecided { --tone: var(--undecided); } .balanced { --tone: var(--balanced); } .outcome { --tone: var(--outcome); }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.2rem, 1fr)); gap: .9rem; margin: 0 0 .9rem; }
.numbers div { display: flex; flex-direction: column; }
.numbers dt { order: 2; color: var(--faint); font-size: .8rem; line-height: 1.3; }
.numbers dd {
  margin: 0; font: 600 1.75rem/1.2 var(--serif); font-variant-numeric: lining-nums tabular-nums; white-space: nowrap;
}
.numbers div:first-child dd { color: var(--tone); }
.paper { font-size: .9rem; }
.switch { margin: .8rem 0 0; }
code, pre { font-family: var(--mono); font-size: .84rem; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem .9rem; margin: .5rem 0 1rem;
  overflow-x: auto; user-select: all; -webkit-user-select: all; line-height: 1.5;
}
.card pre { background: var(--paper); }
p code { white-space: nowrap; } .switch code { white-space: normal; overflow-wrap: anywhere; }
.cards.quiet { grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.quiet .card { padding: .8rem 1rem 1rem; border-top-width: 3px; font-size: .93rem; }
.quiet .card h3 { font-size: 1.08rem; margin-bottom: .5rem; }
.quiet .numbers { margin-bottom: .5rem; gap: .6rem; } .quiet .numbers dd { font-size: 1.25rem; }
.figures { display: grid; gap: 2rem 2.4rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figure > svg, figure > image > img, .plot svg { width: 100%; height: auto; display: block; }
.plot { max-width: 33rem; }
figcaption { font-size: .93rem; margin: .5rem 0 .3rem; max-width: 33rem; }
figcaption b { color: var(--ink); font-weight: 600; }
details { font-size: .92rem; margin: .2rem 0; }
summary { cursor: pointer; color: var(--blue); padding: .25rem 0; }
.scroll { overflow-x: auto; max-height: 24rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .86rem; margin: .4rem 0 .8rem; }
th, td { text-align: right; padding: .28rem .7rem .28rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--faint); font-weight: 500; vertical-align: bottom; white-space: normal; min-width: 4.2rem; }
th:first-child, td:first-child {
  text-align: left; white-space: normal; min-width: 7rem; position: sticky; left: 0; background: var(--paper);
}
.pair { display: grid; gap: .8rem; grid-template-columns: 1fr 1fr; max-width: 62rem; }
.images { display: grid; gap: 1.8rem; margin: 1.2rem 0; }
.pair img { width: 100%; height: auto; border-radius: .4rem; display: block; }
.pair span { display: block; font-size: .9rem; margin-top: .3rem; }
.swatch { display: inline-block; width: .8em; height: .8em; border: 2px solid;
  border-radius: 2px; vertical-align: -.05em; }
ul { padding-left: 1.2rem; max-width: 46rem; }
li { margin: .3rem 0; }
@media (max-width: 34rem) {
  .pair { grid-template-columns: 1fr; }
  body { padding-top: 1.2rem; } .numbers dd { font-size: 1.5rem; } h2 { margin-top: 3rem; } }
@media print { .card, figure { break-inside: avoid; } }
"""
