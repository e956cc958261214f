// Builds dist/, which the gateway embeds: one script and one style, with their hash
// in their names, and the page that loads them. dist/SOURCES says of what, so that a
// test without Node can tell that it is up to date.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

rmSync("dist", { recursive: true, force: true });
mkdirSync("dist");

const { metafile } = await build({
  entryPoints: { app: "src/main.js", style: "src/style.css" },
  bundle: true, minify: true, format: "esm", target: "es2023", charset: "utf8", legalComments: "none",
  entryNames: "[name]-[hash]", outdir: "dist", metafile: true,
});
const names = Object.keys(metafile.outputs).map((path) => path.replace("dist/", ""));
const [script, style] = [".js", ".css"].map((end) => names.find((name) => name.endsWith(end)));
const drawing = readFileSync("src/icon.svg");
const icon = `icon-${createHash("sha256").update(drawing).digest("hex").slice(0, 8)}.svg`;
writeFileSync(`dist/${icon}`, drawing);
const page = readFileSync("src/index.html", "utf8")
  .replace("main.js", `/assets/${script}`).replace("style.css", `/assets/${style}`).replace("icon.svg", `/assets/${icon}`);
writeFileSync("dist/index.html", page);
writeFileSync("dist/uPlot-LICENSE.txt", readFileSync("node_modules/uplot/LICENSE"));

const sources = ["build.mjs", "package-lock.json", ...readdirSync("src", { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile()).map((entry) => `${entry.parentPath}/${entry.name}`)].sort();
const lines = sources.map((path) => `${createHash("sha256").update(readFileSync(path)).digest("hex")}  ${path}\n`);
writeFileSync("dist/SOURCES", lines.join(""));
