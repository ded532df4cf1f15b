export const STYLE = `
:root { --ink: #1c2024; --soft: #60686f; --paper: #f6f7f7; --card: #fff; --rule: #e3e5e7; --accent: #1f6feb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --soft: #9aa3ab; --paper: #121417; --card: #1b1f23; --rule: #2c3237; --accent: #6aa8ff; }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 14px/1.45 system-ui, sans-serif; display: grid; grid-template: auto 1fr / 17rem minmax(0, 1fr); min-height: 100vh; }
header { grid-column: 1 / -1; display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1rem; padding: .6rem 1rem; background: var(--card); border-bottom: 1px solid var(--rule); position: sticky; top: 0; z-index: 2; }
h1 { margin: 0; font-size: 1rem; }
#state { color: var(--soft); }
form { display: flex; flex-wrap: wrap; align-items: center; gap: .4rem 1.1rem; margin-left: auto; }
label { display: flex; align-items: center; gap: .35rem; color: var(--soft); }
select, input[type=search] { font: inherit; color: var(--ink); background: var(--paper); border: 1px solid var(--rule); border-radius: 6px; padding: .2rem .5rem; }
input[type=search] { width: 10rem; }
input { accent-color: var(--accent); }
nav { padding: .75rem; overflow: auto; position: sticky; top: 3.1rem; max-height: calc(100vh - 3.1rem); align-self: start; }
nav label { align-items: flex-start; padding: .4rem .5rem; border-radius: 6px; color: var(--ink); cursor: pointer; }
nav label:hover { background: var(--card); }
nav .swatch { flex: none; width: .7rem; height: .7rem; margin-top: .3rem; border-radius: 50%; }
nav .name { display: block; overflow-wrap: anywhere; }
nav .facts { display: block; color: var(--soft); font-size: .8rem; font-variant-numeric: tabular-nums; }
nav progress { display: block; width: 100%; height: 3px; margin-top: .25rem; border: 0; background: var(--rule); border-radius: 2px; overflow: hidden; appearance: none; }
nav progress::-webkit-progress-bar { background: var(--rule); }
nav progress::-webkit-progress-value { background: var(--accent); }
nav progress::-moz-progress-bar { background: var(--accent); }
nav label > span:last-child { flex: 1; min-width: 0; }
main { padding: .75rem .75rem 3rem 0; display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); align-content: start; }
#empty { color: var(--soft); padding: 2rem 1rem; grid-column: 1 / -1; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .5rem .4rem .1rem; min-width: 0; }
h2 { margin: 0 .4rem .2rem; font-size: .85rem; font-weight: 600; overflow-wrap: anywhere; }
#tip { position: fixed; z-index: 3; pointer-events: none; max-width: 24rem; padding: .35rem .6rem; background: var(--card); border: 1px solid var(--rule); border-radius: 6px; box-shadow: 0 2px 10px #0003; font-size: .8rem; font-variant-numeric: tabular-nums; }
#tip div { display: flex; gap: .5rem; align-items: baseline; }
#tip i { flex: none; width: .6rem; height: .6rem; border-radius: 50%; }
#tip b { margin-left: auto; padding-left: .8rem; font-weight: 600; }
#tip span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.u-select { background: #8884; }
@media (max-width: 46rem) {
  body { display: block; }
  header { position: static; }
  form { margin-left: 0; }
  nav { position: static; max-height: 12rem; padding: .5rem; }
  main { padding: 0 .5rem 3rem; }
}
`;
