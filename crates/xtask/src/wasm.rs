//! The wasm of the npm package: cargo, wasm-bindgen, wasm-opt; its size and where the bytes go.

use crate::process::{command, output, root, run, target_dir};
use crate::system;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use wasmparser::{KnownCustom, Name, Parser, Payload, TypeRef};

/// Builds `web/dist/wasm`, for the GPU and for the processor, and prints sizes. Does nothing but the cargo call if nothing changed.
pub fn build() -> Result<()> {
    system::wasm_target()?;
    let cargo = "cargo build --quiet --profile wasm --package qwen-vl-web --package qwen-vl-web-cpu --target wasm32-unknown-unknown";
    run(&mut command(cargo))?;
    bind("qwen_vl_web")?;
    bind("qwen_vl_web_cpu")
}

fn bind(name: &str) -> Result<()> {
    let compiled = target_dir().join(format!("wasm32-unknown-unknown/wasm/{name}.wasm"));
    let folder = root().join("web/dist/wasm");
    let optimized = folder.join(format!("{name}_bg.wasm"));
    let bound = target_dir().join("wasm-bindgen");
    let modified = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    if modified(&optimized) < modified(&compiled) {
        fs::create_dir_all(&folder)?;
        wasm_bindgen_cli_support::Bindgen::new()
            .input_path(&compiled)
            .web(true)?
            .typescript(true)
            .omit_default_module_path(false)
            .generate(&bound)
            .context("wasm-bindgen")?;
        for file in [format!("{name}.js"), format!("{name}.d.ts")] {
            fs::copy(bound.join(&file), folder.join(&file))?;
        }
        // What Rust's target has switched on, so that wasm-opt accepts it; every browser with WebGPU has these.
        let features = "--enable-bulk-memory --enable-nontrapping-float-to-int --enable-sign-ext --enable-mutable-globals \
                        --enable-reference-types --enable-multivalue --enable-simd";
        let wasm_opt = format!("node node_modules/binaryen/bin/wasm-opt -Oz {features} --strip-debug --strip-producers --output");
        run(command(&wasm_opt).arg(&optimized).arg(bound.join(format!("{name}_bg.wasm"))))?;
    }
    println!("{name}:");
    print_sizes(&optimized)?;
    print_shares(&fs::read(bound.join(format!("{name}_bg.wasm")))?)
}

fn print_sizes(wasm: &Path) -> Result<()> {
    let script = "const {readFileSync} = require('fs'), zlib = require('zlib'), wasm = readFileSync(process.argv[1]); \
                  const kib = bytes => (bytes.length / 1024).toFixed(0).padStart(6) + ' KiB'; \
                  console.log('wasm after wasm-opt' + kib(wasm) + ', gzip' + kib(zlib.gzipSync(wasm, {level: 9})) + \
                  ', brotli' + kib(zlib.brotliCompressSync(wasm)));";
    print!("{}", output(command("node --eval").arg(script).arg(wasm))?);
    Ok(())
}

/// Prints how many bytes of code and data come from which crate. Before wasm-opt, which drops the names.
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
    println!("where the bytes go, before wasm-opt (KiB):");
    for (name, bytes) in shares.iter().take(16) {
        println!("{:8.1}  {name}", *bytes as f64 / 1024.0);
    }
    let rest: usize = shares.iter().skip(16).map(|(_, bytes)| bytes).sum();
    println!("{:8.1}  ({} others)", rest as f64 / 1024.0, shares.len().saturating_sub(16));
    Ok(())
}

/// The crate of a demangled function name: of the type for methods and implementations.
fn crate_of(name: &str) -> &str {
    let name = name.trim_start_matches(['<', '&', '*', '[', '(', ' ']).trim_start_matches("mut ").trim_start_matches("dyn ");
    let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
    if name[end..].starts_with("::") || name[end..].starts_with('[') { &name[..end] } else { "(others)" }
}
