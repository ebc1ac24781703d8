//! Finds circles of imports: among the crates, and among the modules of a crate.
//!
//! Modules are compared within one folder at a time: the direct children of `src`, the direct children of each folder module. A child may use
//! its parent and a parent its children; two siblings may not use each other, directly or through others. Tests are left out.
//!
//! The check reads paths that begin with `crate::` or `super::`. A name that a parent re-exports counts as its child's.

use crate::process::root;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Names, and the names that each of them uses.
type Graph = BTreeMap<String, BTreeSet<String>>;

pub fn check() -> Result<()> {
    let metadata = super::metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata: `packages` is missing")?;
    let mut circles: Vec<String> = circle(&crates(packages)).map(|circle| format!("crates: {circle}")).into_iter().collect();
    let mut modules = 0;
    for package in packages {
        let name = package["name"].as_str().context("cargo metadata: a package has no name")?;
        let source =
            Path::new(package["manifest_path"].as_str().context("cargo metadata: a package has no manifest")?).with_file_name("src");
        // `web/cpu` builds the source of `web`.
        if !source.is_dir() {
            continue;
        }
        let source = Module::read_crate(&source)?;
        modules += source.count();
        let mut found = Vec::new();
        source.circles(&source, &[], &mut found);
        circles.extend(found.into_iter().map(|circle| format!("{name}: {circle}")));
    }
    ensure!(circles.is_empty(), "circles of imports in {}:\n  {}", root().display(), circles.join("\n  "));
    println!("no circles among {} crates and {modules} modules", packages.len());
    Ok(())
}

/// The packages of the workspace with the ones that they depend on, for tests too.
fn crates(packages: &[serde_json::Value]) -> Graph {
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let dependencies = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().into_iter().flatten();
        all.filter_map(|dependency| dependency["name"].as_str()).filter(|name| names.contains(name)).map(str::to_owned).collect()
    };
    packages.iter().filter_map(|package| Some((package["name"].as_str()?.to_owned(), dependencies(package)))).collect()
}

/// A module with its file's code and its children.
#[derive(Default)]
struct Module {
    code: String,
    children: BTreeMap<String, Module>,
}

impl Module {
    /// Reads `src`. Both `lib.rs` and `main.rs` are the root.
    fn read_crate(source: &Path) -> Result<Self> {
        Self::read_folder(source, &["lib", "main"])
    }

    /// Reads a folder. The files called `own` belong to the module of the folder itself.
    fn read_folder(folder: &Path, own: &[&str]) -> Result<Self> {
        let mut module = Self::default();
        for entry in fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))? {
            let path = entry?.path();
            let stem = path.file_stem().context("a file without a name")?.to_string_lossy().into_owned();
            if path.is_dir() {
                let child = Self::read_folder(&path, &["mod"])?;
                let known = module.children.entry(stem).or_default();
                known.code += &child.code;
                known.children.extend(child.children);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let code = without_tests(&without_comments(&fs::read_to_string(&path)?));
                let place = if own.contains(&stem.as_str()) { &mut module } else { module.children.entry(stem).or_default() };
                place.code += &code;
            }
        }
        Ok(module)
    }

    fn count(&self) -> usize {
        1 + self.children.values().map(Self::count).sum::<usize>()
    }

    /// The module at a path below this one.
    fn at(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, |module, name| module.children.get(name))
    }

    /// Finds circles among the children of this module, which is at `path` below `root`, and of its descendants.
    fn circles(&self, root: &Self, path: &[String], found: &mut Vec<String>) {
        let mut graph = Graph::new();
        for (name, child) in &self.children {
            let mut used = BTreeSet::new();
            child.add_uses(root, &[path, std::slice::from_ref(name)].concat(), path, &mut used);
            used.remove(name);
            graph.insert(name.clone(), used);
        }
        if let Some(circle) = circle(&graph) {
            found.push([path.join("::"), circle].join(" "));
        }
        for (name, child) in &self.children {
            child.circles(root, &[path, std::slice::from_ref(name)].concat(), found);
        }
    }

    /// Adds the children of `parent` that this module, at `path`, and its descendants use.
    fn add_uses(&self, root: &Self, path: &[String], parent: &[String], used: &mut BTreeSet<String>) {
        for target in paths(&self.code, path) {
            let Some(rest) = target.strip_prefix(parent) else { continue };
            let Some(first) = rest.first() else { continue };
            let Some(parent) = root.at(parent) else { continue };
            if parent.children.contains_key(first) {
                used.insert(first.clone());
            } else {
                used.extend(parent.exporter(first));
            }
        }
        for (name, child) in &self.children {
            child.add_uses(root, &[path, std::slice::from_ref(name)].concat(), parent, used);
        }
    }

    /// The child that a name comes from which this module re-exports.
    fn exporter(&self, name: &str) -> Option<String> {
        let mut exports = statements(&self.code, "pub use ").chain(statements(&self.code, "pub(crate) use "));
        exports.find_map(|statement| {
            let tree = flatten(statement);
            let path = tree.into_iter().find(|path| path.last().is_some_and(|last| last == name))?;
            let first = if path[0] == "self" || path[0] == "crate" { path.get(1)? } else { &path[0] };
            self.children.contains_key(first).then(|| first.clone())
        })
    }
}

/// The text between each occurrence of `start` and the next semicolon.
fn statements<'a>(code: &'a str, start: &'static str) -> impl Iterator<Item = &'a str> {
    code.match_indices(start).filter_map(move |(at, _)| code[at + start.len()..].split(';').next())
}

/// All paths of a module's code that begin with `crate` or `super`, as paths from the crate's root.
fn paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            for path in flatten(&code[at..]) {
                let ups = path.iter().take_while(|name| *name == "super").count();
                if path[0] == "crate" {
                    all.push(path[1..].to_vec());
                } else if let Some(kept) = module.len().checked_sub(ups) {
                    all.push([&module[..kept], &path[ups..]].concat());
                }
            }
        }
    }
    all
}

/// The paths of a use tree at the start of a text: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn flatten(text: &str) -> Vec<Vec<String>> {
    let mut tree = text;
    let mut found = Vec::new();
    read_tree(&mut tree, &[], &mut found);
    found
}

fn read_tree(text: &mut &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = prefix.to_vec();
    loop {
        *text = text.trim_start();
        if let Some(rest) = text.strip_prefix('{') {
            *text = rest;
            loop {
                *text = text.trim_start();
                if let Some(rest) = text.strip_prefix('}') {
                    *text = rest;
                    return;
                }
                let length = text.len();
                read_tree(text, &path, found);
                *text = text.trim_start();
                *text = text.strip_prefix(',').unwrap_or(text);
                // Not a use tree.
                if text.len() == length {
                    return;
                }
            }
        }
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        if end == 0 {
            break;
        }
        path.push(text[..end].to_owned());
        *text = &text[end..];
        match text.strip_prefix("::") {
            Some(rest) => *text = rest,
            None => break,
        }
    }
    // `name as other`.
    if let Some(rest) = text.strip_prefix(" as ") {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        *text = &rest[end..];
    }
    if path.len() > prefix.len() {
        found.push(path);
    }
}

/// Code without line comments. Strings that hold `//` lose their end, which does no harm here.
fn without_comments(code: &str) -> String {
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Code without what follows `#[cfg(test)]` up to the end of its block or statement.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some((before, after)) = rest.split_once("#[cfg(test)]") {
        kept += before;
        let mut depth = 0;
        let end = after.char_indices().find(|(_, c)| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth == 0 && (*c == '}' || *c == ';')
        });
        rest = end.map_or("", |(at, _)| &after[at + 1..]);
    }
    kept + rest
}

/// A circle of a graph, such as `a → b → a`.
fn circle(graph: &Graph) -> Option<String> {
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| visit(graph, start, &mut Vec::new(), &mut done))
}

fn visit<'a>(graph: &'a Graph, name: &'a str, trail: &mut Vec<&'a str>, done: &mut BTreeSet<&'a str>) -> Option<String> {
    if let Some(at) = trail.iter().position(|other| *other == name) {
        return Some([&trail[at..], &[name]].concat().join(" → "));
    }
    if done.contains(name) {
        return None;
    }
    trail.push(name);
    let found = graph.get(name).into_iter().flatten().find_map(|next| visit(graph, next, trail, done));
    trail.pop();
    done.insert(name);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(code: &str, children: &[(&str, Module)]) -> Module {
        let children = children.iter().map(|(name, child)| ((*name).to_owned(), child.copy())).collect();
        Module { code: without_tests(&without_comments(code)), children }
    }

    impl Module {
        fn copy(&self) -> Self {
            Self { code: self.code.clone(), children: self.children.iter().map(|(name, child)| (name.clone(), child.copy())).collect() }
        }

        fn all_circles(&self) -> Vec<String> {
            let mut found = Vec::new();
            self.circles(self, &[], &mut found);
            found
        }
    }

    #[test]
    fn finds_a_circle_through_three_modules() {
        let root = module(
            "mod a; mod b; mod c;",
            &[
                ("a", module("use crate::b::{self, B};", &[])),
                ("b", module("fn f() { crate::c::g(); }", &[])),
                ("c", module("use super::a::A;", &[])),
            ],
        );
        assert_eq!(root.all_circles(), [" a → b → c → a"]);
    }

    #[test]
    fn finds_a_circle_through_a_re_export() {
        let root = module("pub use b::{Thing, Other};", &[("a", module("use crate::Other;", &[])), ("b", module("use crate::a::A;", &[]))]);
        assert_eq!(root.all_circles(), [" a → b → a"]);
    }

    #[test]
    fn finds_a_circle_within_a_folder() {
        let inner = module("", &[("a", module("use super::b::B;", &[])), ("b", module("use crate::inner::a::A;", &[]))]);
        assert_eq!(module("", &[("inner", inner)]).all_circles(), ["inner a → b → a"]);
    }

    #[test]
    fn tests_comments_parents_and_children_are_no_circle() {
        let root = module(
            "",
            &[
                ("a", module("use crate::b::B; use super::Shared; mod child;", &[("child", module("use super::Parent;", &[]))])),
                ("b", module("// crate::a\n#[cfg(test)]\nmod tests { use crate::a::A; }\nfn f() {}", &[])),
            ],
        );
        assert_eq!(root.all_circles(), [""; 0]);
    }

    #[test]
    fn this_repository_has_no_circles() {
        check().unwrap();
    }

    #[test]
    fn reads_use_trees() {
        let paths = flatten("crate::{a::{self, B as C}, d::E, f::*};");
        let joined: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
        assert_eq!(joined, ["crate::a::self", "crate::a::B", "crate::d::E", "crate::f"]);
    }
}
