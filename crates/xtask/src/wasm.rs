//! The wasm modules of the npm package: cargo, wasm-bindgen, wasm-opt, and a report of their sizes.

use crate::process::{command, output, root, run, target_dir};
use crate::system;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;
use wasmparser::{KnownCustom, Name, Parser, Payload, TypeRef};

/// The wasm modules of a build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backends {
    /// WebGPU alone. If the CPU fallback is not built, a module stands in for it that throws an error.
    WebGpu,
    /// WebGPU and the CPU fallback.
    All,
}

/// The wasm module of WebGPU.
const WEBGPU: &str = "qwen_vl_web";
/// The wasm module of the CPU fallback.
const FALLBACK: &str = "qwen_vl_web_cpu";
/// The wasm module of the converter.
const CONVERTER: &str = "qwen_vl_web_convert";

/// The wasm module of constraints.
const CONSTRAINTS: &str = "qwen_vl_web_constrain";

/// All modules.
const MODULES: [&str; 4] = [WEBGPU, CONVERTER, CONSTRAINTS, FALLBACK];

/// The packages of the modules.
pub fn packages() -> [String; 4] {
    MODULES.map(|name| name.replace('_', "-"))
}

/// Builds `web/dist/wasm`. Does nothing except calling cargo if nothing changed.
pub fn build(backends: Backends) -> Result<()> {
    system::wasm_target()?;
    let modules = match backends {
        Backends::WebGpu => &[WEBGPU, CONVERTER, CONSTRAINTS][..],
        Backends::All => &MODULES,
    };
    let flags = path_flags()?;
    thread::scope(|scope| -> Result<()> {
        let mut binding = Vec::new();
        for name in modules {
            compile(name, &flags)?;
            // While cargo compiles the next module, most of the time on one core.
            binding.push(scope.spawn(|| bind(name)));
        }
        binding.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    if backends == Backends::WebGpu { stand_in_for_fallback() } else { Ok(()) }
}

/// Compiles one package. Two in one call of cargo would share the features of their dependencies: the WebGPU module would depend on the call.
fn compile(name: &str, flags: &str) -> Result<()> {
    let (package, profile) = (name.replace('_', "-"), profile(name));
    let mut cargo = command(&format!("cargo build --quiet --profile {profile} --target wasm32-unknown-unknown --package {package}"));
    // Cargo appends these flags to those of .cargo/config.toml. The variables would replace both.
    cargo.arg("--config").arg(flags).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut cargo)
}

/// Returns the setting of cargo that keeps the paths of this machine out of the modules. Places of panics name source files, and the bytes must
/// be the same wherever the tree, the build folder and cargo's registry are.
fn path_flags() -> Result<String> {
    let flag = |(path, name): &(PathBuf, String)| format!("'--remap-path-prefix={}={name}'", path.display());
    let flags: Vec<String> = paths()?.iter().map(flag).collect();
    Ok(format!("target.wasm32-unknown-unknown.rustflags=[{}]", flags.join(", ")))
}

/// Returns the folders of source files with the names that stand for them in the modules. The last one that fits counts.
fn paths() -> Result<Vec<(PathBuf, String)>> {
    let compiler = output(&mut command("rustc --verbose --version"))?;
    let commit = compiler.lines().find_map(|line| line.strip_prefix("commit-hash: ")).context("`rustc -vV` prints no commit hash")?;
    let library = Path::new(output(&mut command("rustc --print sysroot"))?.trim()).join("lib/rustlib/src/rust");
    let mut paths = vec![(root(), ".".to_owned()), (target_dir(), "target".to_owned())];
    // The precompiled library has this name already. Where the component `rust-src` is installed, the compiler can name its folder.
    paths.push((library, format!("/rustc/{commit}")));
    paths.extend(registries()?.into_iter().map(|folder| (folder, "crates.io".to_owned())));
    Ok(paths)
}

/// Returns an error if a built module names a folder of this machine.
pub fn check_paths() -> Result<()> {
    let paths = paths()?;
    for name in MODULES {
        let bytes = fs::read(module(name)).with_context(|| format!("could not read {}", module(name).display()))?;
        let found = paths.iter().find(|(path, _)| contains(&bytes, &path.to_string_lossy()));
        ensure!(
            found.is_none(),
            "{name}_bg.wasm contains the path {}",
            found.map(|(path, _)| path.display().to_string()).unwrap_or_default()
        );
    }
    Ok(())
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The folders in which cargo has unpacked the registry's crates.
fn registries() -> Result<BTreeSet<PathBuf>> {
    let metadata = output(&mut command("cargo metadata --format-version 1 --filter-platform wasm32-unknown-unknown"))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("could not parse the output of cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata: `packages` is missing")?;
    let manifests = packages.iter().filter(|package| !package["source"].is_null()).filter_map(|package| package["manifest_path"].as_str());
    Ok(manifests.filter_map(|manifest| Path::new(manifest).ancestors().nth(2)).map(Path::to_owned).collect())
}

/// The profile of a module: small for those that every page fetches, fast for the converter.
fn profile(name: &str) -> &'static str {
    if name == CONVERTER { "wasm-convert" } else { "wasm" }
}

/// True if `web/dist/wasm` holds a CPU fallback that was built after the sources of the WebGPU module changed last.
pub fn has_fallback() -> bool {
    modified(&module(FALLBACK)) >= modified(&compiled(WEBGPU))
}

/// Prints the sizes of the modules, and which crates their bytes come from.
pub fn report() -> Result<()> {
    for name in MODULES {
        println!("{name}:");
        print_sizes(&module(name))?;
        print_shares(&fs::read(bound().join(format!("{name}_bg.wasm")))?)?;
    }
    Ok(())
}

/// The module as it is published.
fn module(name: &str) -> PathBuf {
    dist().join(format!("{name}_bg.wasm"))
}

fn dist() -> PathBuf {
    root().join("web/dist/wasm")
}

/// The module as cargo writes it.
fn compiled(name: &str) -> PathBuf {
    target_dir().join(format!("wasm32-unknown-unknown/{}/{name}.wasm", profile(name)))
}

/// The folder for the output of wasm-bindgen.
fn bound() -> PathBuf {
    target_dir().join("wasm-bindgen")
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|file| file.modified()).ok()
}

fn bind(name: &str) -> Result<()> {
    if modified(&module(name)) >= modified(&compiled(name)) {
        return Ok(());
    }
    fs::create_dir_all(dist())?;
    wasm_bindgen_cli_support::Bindgen::new()
        .input_path(compiled(name))
        .web(true)?
        .typescript(true)
        .omit_default_module_path(false)
        .generate(bound())
        .with_context(|| format!("wasm-bindgen could not process {}", compiled(name).display()))?;
    for file in [format!("{name}.js"), format!("{name}.d.ts")] {
        fs::copy(bound().join(&file), dist().join(&file))?;
    }
    // The features that Rust's target enables. Every browser with WebGPU has them.
    let features = "--enable-bulk-memory --enable-nontrapping-float-to-int --enable-sign-ext --enable-mutable-globals \
                    --enable-reference-types --enable-multivalue --enable-simd";
    let level = if name == CONVERTER { "-O3" } else { "-Oz" };
    let wasm_opt = format!("node node_modules/binaryen/bin/wasm-opt {level} {features} --strip-debug --strip-producers --output");
    run(command(&wasm_opt).arg(module(name)).arg(bound().join(format!("{name}_bg.wasm"))))
}

/// Writes a module in place of a CPU fallback that is missing or older than the sources. It has the same types, and throws an error that
/// says what to do.
fn stand_in_for_fallback() -> Result<()> {
    if has_fallback() {
        return Ok(());
    }
    let script = "throw new Error(\"the CPU fallback is not built: wait until `cargo xtask demo` says that it is, or run `cargo xtask site`\");\n\
                  export {};\n";
    fs::write(dist().join(format!("{FALLBACK}.js")), script)?;
    fs::copy(dist().join(format!("{WEBGPU}.d.ts")), dist().join(format!("{FALLBACK}.d.ts")))?;
    match fs::remove_file(module(FALLBACK)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("could not remove the old CPU fallback"),
        _ => Ok(()),
    }
}

fn print_sizes(wasm: &Path) -> Result<()> {
    let script = "const {readFileSync} = require('fs'), zlib = require('zlib'), wasm = readFileSync(process.argv[1]); \
                  const kib = bytes => (bytes.length / 1024).toFixed(0).padStart(6) + ' KiB'; \
                  console.log('wasm after wasm-opt' + kib(wasm) + ', gzip' + kib(zlib.gzipSync(wasm, {level: 9})) + \
                  ', brotli' + kib(zlib.brotliCompressSync(wasm)));";
    print!("{}", output(command("node --eval").arg(script).arg(wasm))?);
    Ok(())
}

/// Prints the bytes of code and data that come from each crate, before wasm-opt, which drops the names.
fn print_shares(wasm: &[u8]) -> Result<()> {
    let mut names: HashMap<u32, String> = HashMap::new();
    let mut bodies: Vec<usize> = Vec::new();
    let mut imported = 0;
    let mut data = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    imported += u32::from(matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                }
            }
            Payload::CodeSectionEntry(body) => bodies.push(body.range().len()),
            Payload::DataSection(section) => data = section.range().len(),
            Payload::CustomSection(section) => {
                if let KnownCustom::Name(section) = section.as_known() {
                    for subsection in section {
                        let Name::Function(functions) = subsection? else { continue };
                        for function in functions {
                            let function = function?;
                            names.insert(function.index, function.name.to_owned());
                        }
                    }
                }
            }
            _ => {}
        }
    }
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for (index, bytes) in bodies.iter().enumerate() {
        let crate_name = names.get(&(imported + index as u32)).map_or("(no name)", |name| crate_of(name));
        *shares.entry(crate_name.to_owned()).or_default() += bytes;
    }
    shares.insert("(constants: tables, texts, shaders)".to_owned(), data);
    let mut shares: Vec<_> = shares.into_iter().collect();
    shares.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    println!("bytes by crate before wasm-opt (KiB):");
    for (name, bytes) in shares.iter().take(16) {
        println!("{:8.1}  {name}", *bytes as f64 / 1024.0);
    }
    let rest: usize = shares.iter().skip(16).map(|(_, bytes)| bytes).sum();
    println!("{:8.1}  ({} others)", rest as f64 / 1024.0, shares.len().saturating_sub(16));
    Ok(())
}

/// Returns the crate of a demangled function name. For methods and implementations it is the crate of the type.
fn crate_of(name: &str) -> &str {
    let name = name.trim_start_matches(['<', '&', '*', '[', '(', ' ']).trim_start_matches("mut ").trim_start_matches("dyn ");
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
    if name[end..].starts_with("::") || name[end..].starts_with('[') { &name[..end] } else { "(others)" }
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn a_path_is_found_at_every_place() {
        let bytes = b"\0/home/user/tree/a.rs\xff";
        assert!(["/home/user", "\0/home", "a.rs"].iter().all(|text| contains(bytes, text)));
        assert!(!["/home/users", "tree/b.rs", "a.rs/and-more-than-there-is-in-all"].iter().any(|text| contains(bytes, text)));
    }
}
