//! References between the modules of a crate: the edges of [`CRATES`](super::edges::CRATES), and none besides.
//!
//! A module is a top-level module of the crate, and everything below it belongs to it. Below a module that the crate's
//! row names as a parent (`workspace` in core), each direct child is a module of its own, `workspace::store`, and the
//! parent's own text is one too, `workspace`. The crate's `lib.rs` or `main.rs` may refer to everything and is no
//! module, so nothing may refer to what is defined there. What a root or a parent re-exports belongs to the module it
//! comes from: `crate::workspace::Status` is an edge to `workspace::view`, and the re-export of a child is no edge.
//!
//! An enforced crate fails on an edge that is not listed, a circle among the listed or the found edges, a listed edge
//! that nothing uses, a module without a row, and a row without a module.
//!
//! To add an edge: ask whether the reference points downwards, from what decides to what it decides with. When it
//! does, put the target's name into the module's row in `edges.rs`, in a commit that says why; when that makes a
//! circle, move what both need into a module below both. `cargo xtask edges` prints the rows as the tree has them.
//!
//! A module that a macro declares is found by its file. References in strings (`#[serde(with = "crate::x")]`), from macros' expansions and below `#[cfg(test)]` are not
//! edges; a `#[path]` is not followed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::Violation;
use super::graph::{Graph, circle, knots};
use super::references::{self, Import, Names, Text};
use crate::error::{TaskError, at};

/// File that violations of the table itself are reported for.
const TABLE: &str = "xtask/src/structure/edges.rs";
/// Steps after which a name that leads from import to import is given up.
const MOST_STEPS: usize = 16;

/// The modules of one crate, and which edges it may have between them.
#[derive(Clone, Copy, Debug)]
pub struct CrateModules<'a> {
    /// Name of the crate's directory below `crates/`.
    pub name: &'a str,
    /// Modules whose direct children are modules of their own.
    pub parents: &'a [&'a str],
    /// Whether violations are reported.
    pub enforced: bool,
    /// A row for each module: its name, and those that it may refer to.
    pub edges: &'a [(&'a str, &'a [&'a str])],
}

/// Violations in the crates of `table` that are in the tree at `root` and enforced.
///
/// # Errors
/// When a source file cannot be read.
pub fn check(root: &Path, table: &[CrateModules<'_>]) -> Result<Vec<Violation>, TaskError> {
    let mut found = Vec::new();
    for modules in table.iter().filter(|modules| modules.enforced) {
        if let Some(source) = Source::read(root, modules)? {
            found.extend(source.violations(modules));
        }
    }
    Ok(found)
}

/// The edges that the crates of `table` have in the tree at `root`, in the table's form, their circles marked.
///
/// # Errors
/// When a source file cannot be read.
pub fn describe(root: &Path, table: &[CrateModules<'_>]) -> Result<String, TaskError> {
    let mut out = String::new();
    for modules in table {
        if let Some(source) = Source::read(root, modules)? {
            source.describe(modules, &mut out);
        }
    }
    Ok(out)
}

/// References that make an edge.
#[derive(Debug)]
struct Sighting {
    /// File of the first reference.
    path: PathBuf,
    line: usize,
    /// Path of the first reference as it stands there.
    written: String,
    /// Number of references.
    count: usize,
}

/// Destination of a path within the crate.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// A module that has a row.
    Module(String),
    /// A module whose children have rows, by its name alone.
    Parent,
    /// An item that the crate's root defines.
    OfRoot(String),
    /// Another crate's, a local name, or the root by its name alone.
    Elsewhere,
}

/// Text of a module and the file that has it.
struct Module {
    file: PathBuf,
    text: Text,
}

/// A crate's modules and the edges between them.
struct Source {
    edges: BTreeMap<(String, String), Sighting>,
    names: BTreeSet<String>,
    /// Modules that cannot be read, and references that no row can allow.
    unfit: Vec<Violation>,
}

impl Source {
    /// `None` when the tree has no such crate.
    fn read(root: &Path, crate_modules: &CrateModules<'_>) -> Result<Option<Self>, TaskError> {
        let src = Path::new("crates").join(crate_modules.name).join("src");
        let mut tree = Tree { modules: BTreeMap::new(), parents: crate_modules.parents, unfit: Vec::new() };
        for file in ["lib.rs", "main.rs"].map(|name| src.join(name)) {
            if root.join(&file).is_file() {
                tree.read(root, &file, &Names::new(), &src)?;
            }
        }
        if tree.modules.is_empty() {
            return Ok(None);
        }
        let names = tree.modules.keys().filter_map(|names| tree.row_of(names)).collect();
        let edges = tree.edges();
        Ok(Some(Self { edges, names, unfit: tree.unfit }))
    }

    fn graph(&self) -> Graph {
        let mut graph: Graph = self.names.iter().map(|name| (name.clone(), BTreeSet::new())).collect();
        for (from, to) in self.edges.keys() {
            graph.entry(from.clone()).or_default().insert(to.clone());
        }
        graph
    }

    fn violations(&self, modules: &CrateModules<'_>) -> Vec<Violation> {
        let mut found = self.unfit.clone();
        let name = modules.name;
        let of_table = |what: String| Violation { path: TABLE.into(), line: 0, what };
        let mut listed = Graph::new();
        for (module, targets) in modules.edges {
            let targets: BTreeSet<String> = targets.iter().map(|target| (*target).to_owned()).collect();
            for target in targets.iter().filter(|target| !self.names.contains(*target)) {
                found.push(of_table(format!("{name} has no module {target}, which {module} may refer to")));
            }
            if !self.names.contains(*module) {
                found.push(of_table(format!("{name} has no module {module}, which has a row")));
            }
            if listed.insert((*module).to_owned(), targets).is_some() {
                found.push(of_table(format!("{name}'s module {module} has two rows")));
            }
        }
        for module in self.names.iter().filter(|module| !listed.contains_key(*module)) {
            found.push(of_table(format!("{name}'s module {module} has no row")));
        }
        for ((from, to), sighting) in &self.edges {
            if !listed.get(from).is_some_and(|targets| targets.contains(to)) {
                found.push(sighting.violation(format!(
                    "{from} must not refer to {to}, as {} does: no row of {TABLE} allows it",
                    sighting.written
                )));
            }
        }
        for (from, to) in listed.iter().flat_map(|(from, targets)| targets.iter().map(move |to| (from, to))) {
            let known = self.names.contains(from) && self.names.contains(to);
            if known && !self.edges.contains_key(&(from.clone(), to.clone())) {
                found.push(of_table(format!("{name}'s edge from {from} to {to} is not used any more")));
            }
        }
        for knot in knots(&listed) {
            let circle = circle(&listed, &knot).join(" -> ");
            found.push(of_table(format!("{name}'s rows make a circle: {circle}")));
        }
        let graph = self.graph();
        for knot in knots(&graph) {
            let circle = circle(&graph, &knot);
            let first = circle.first().zip(circle.get(1)).map(|(from, to)| (from.clone(), to.clone()));
            if let Some(sighting) = first.and_then(|edge| self.edges.get(&edge)) {
                found.push(sighting.violation(format!("modules in a circle: {}", circle.join(" -> "))));
            }
        }
        found
    }

    fn describe(&self, modules: &CrateModules<'_>, out: &mut String) {
        let graph = self.graph();
        let knots = knots(&graph);
        let state = if modules.enforced { "enforced" } else { "not enforced" };
        let _ = writeln!(out, "// {} ({state})", modules.name);
        for (module, targets) in &graph {
            let knot = knots.iter().find(|knot| knot.contains(module));
            let back: Vec<_> = targets
                .iter()
                .filter(|target| knot.is_some_and(|knot| knot.contains(*target)))
                .map(String::as_str)
                .collect();
            if !back.is_empty() {
                let _ = writeln!(out, "// circle, by {}", back.join(", "));
            }
            let targets: Vec<_> = targets.iter().map(|target| format!("\"{target}\"")).collect();
            let _ = writeln!(out, "(\"{module}\", &[{}]),", targets.join(", "));
        }
        for knot in &knots {
            let modules: Vec<_> = knot.iter().map(String::as_str).collect();
            let _ = writeln!(out, "// knot of {}: {}", knot.len(), modules.join(" "));
            let _ = writeln!(out, "// one circle in it: {}", circle(&graph, knot).join(" -> "));
            let mut inside: Vec<_> = self
                .edges
                .iter()
                .filter(|((from, to), _)| knot.contains(from) && knot.contains(to))
                .collect();
            inside.sort_by_key(|(_, sighting)| sighting.count);
            for ((from, to), sighting) in inside {
                let Sighting { path, line, written, count } = sighting;
                let _ = writeln!(
                    out,
                    "//   {from} -> {to}, {count} times, first {}:{line}: {written}",
                    path.display()
                );
            }
        }
        for violation in &self.unfit {
            let _ = writeln!(out, "// {violation}");
        }
        let _ = writeln!(out);
    }
}

impl Sighting {
    fn violation(&self, what: String) -> Violation {
        Violation { path: self.path.clone(), line: self.line, what }
    }
}

/// Modules with a file in `dir` that `source` does not declare in its text: a macro does.
fn undeclared(dir: &Path, source: &str) -> Result<Vec<String>, TaskError> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut found = BTreeSet::new();
    for entry in entries {
        let path = entry.map_err(at(dir, "read"))?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let is_module = path.extension().is_some_and(|end| end == "rs") || path.join("mod.rs").is_file();
        if is_module && name != "mod" && !source.contains(&format!("mod {name};")) {
            found.insert(name.to_owned());
        }
    }
    Ok(found.into_iter().collect())
}

/// Every module of a crate, by its path; the root has no names.
struct Tree<'a> {
    modules: BTreeMap<Names, Module>,
    parents: &'a [&'a str],
    unfit: Vec<Violation>,
}

impl Tree<'_> {
    /// Reads `file`, which holds the module `names`, and the files of the modules that it declares, which are in `dir`.
    fn read(&mut self, root: &Path, file: &Path, names: &Names, dir: &Path) -> Result<(), TaskError> {
        let full = root.join(file);
        let source = fs::read_to_string(&full).map_err(at(&full, "read"))?;
        for (inner, text) in references::read(&source) {
            let names = [&names[..], &inner[..]].concat();
            let dir = inner.iter().fold(dir.to_owned(), |dir, name| dir.join(name));
            for (child, line) in &text.declared {
                let child_names = [&names[..], std::slice::from_ref(child)].concat();
                let child_dir = dir.join(child);
                let files = [dir.join(format!("{child}.rs")), child_dir.join("mod.rs")];
                match files.iter().find(|file| root.join(file).is_file()) {
                    Some(file) => self.read(root, file, &child_names, &child_dir)?,
                    None => self.unfit.push(Violation {
                        path: file.to_owned(),
                        line: *line,
                        what: format!("the module {child} has no file in its ordinary place"),
                    }),
                }
            }
            // The crate's two roots, when it is a library and a program, are looked up as one.
            match self.modules.entry(names) {
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    known.get_mut().text.imports.extend(text.imports);
                }
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(Module { file: file.to_owned(), text });
                }
            }
        }
        // The roots of a crate share a directory, and declare what is in it.
        if !names.is_empty() {
            for child in undeclared(&root.join(dir), &source)? {
                let child_names = [&names[..], std::slice::from_ref(&child)].concat();
                let (beside, child_dir) = (dir.join(format!("{child}.rs")), dir.join(&child));
                let file = if root.join(&beside).is_file() { beside } else { child_dir.join("mod.rs") };
                self.read(root, &file, &child_names, &child_dir)?;
            }
        }
        Ok(())
    }

    fn is_parent(&self, names: &[String]) -> bool {
        self.parents.contains(&names.join("::").as_str())
    }

    /// Name of the row that the module `names` belongs to; the root has none.
    fn row_of(&self, names: &[String]) -> Option<String> {
        let mut len = usize::from(!names.is_empty());
        while len > 0 && len < names.len() && self.is_parent(&names[..len]) {
            len += 1;
        }
        (len > 0).then(|| names[..len].join("::"))
    }

    fn edges(&mut self) -> BTreeMap<(String, String), Sighting> {
        let mut edges = BTreeMap::new();
        let mut unfit = Vec::new();
        for (names, module) in &self.modules {
            let Some(from) = self.row_of(names) else { continue };
            for (path, line, glob) in self.references(names, &module.text) {
                let Some(absolute) = self.absolute(names, path, MOST_STEPS) else { continue };
                let (to, written) = match self.target(&absolute, glob, MOST_STEPS) {
                    Target::Module(to) if to != from => (to, path.join("::")),
                    Target::OfRoot(item) => {
                        let what = format!("{from} refers to {item} of the crate's root, which is no module");
                        unfit.push(Violation { path: module.file.clone(), line, what });
                        continue;
                    }
                    _ => continue,
                };
                edges
                    .entry((from.clone(), to))
                    .and_modify(|sighting: &mut Sighting| sighting.count += 1)
                    .or_insert_with(|| Sighting { path: module.file.clone(), line, written, count: 1 });
            }
        }
        self.unfit.extend(unfit);
        edges
    }

    /// Paths that make an edge when they lead to another module, with their lines, and whether each ends in a star.
    fn references<'t>(&self, names: &Names, text: &'t Text) -> Vec<(&'t Names, usize, bool)> {
        let is_parent = self.is_parent(names);
        // A parent may show what its children have; in its own text, what it uses of that counts.
        let shows_child = |import: &Import| {
            is_parent
                && import.public
                && !import.glob
                && self
                    .absolute(names, &import.path, MOST_STEPS)
                    .is_some_and(|path| path.len() > names.len() && path.starts_with(names))
        };
        let imported = |name: &String| text.imports.iter().any(|import| import.name.as_ref() == Some(name));
        let imports = text.imports.iter().filter(|import| !shows_child(import));
        let mentions = text.mentions.iter().filter(|mention| match &mention.path[..] {
            [name] => is_parent && imported(name),
            _ => true,
        });
        imports
            .map(|import| (&import.path, import.line, import.glob))
            .chain(mentions.map(|mention| (&mention.path, mention.line, false)))
            .collect()
    }

    /// Path from the crate's root that `path` means in the module `names`; `None` for another crate's.
    fn absolute(&self, names: &[String], path: &[String], steps: usize) -> Option<Names> {
        let (first, rest) = path.split_first()?;
        let steps = steps.checked_sub(1)?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" | "super" => {
                let rest = path.strip_prefix(&["self".to_owned()]).unwrap_or(path);
                let ups = rest.iter().take_while(|name| *name == "super").count();
                let kept = names.len().checked_sub(ups)?;
                Some([&names[..kept], &rest[ups..]].concat())
            }
            _ => Some([self.lookup(names, first, steps)?, rest.to_vec()].concat()),
        }
    }

    /// Path from the crate's root of what `name` is in the module `names`: a child, or imported.
    fn lookup(&self, names: &[String], name: &String, steps: usize) -> Option<Names> {
        let child = [names, std::slice::from_ref(name)].concat();
        if self.modules.contains_key(&child) {
            return Some(child);
        }
        let steps = steps.checked_sub(1)?;
        let imports = &self.modules.get(names)?.text.imports;
        if let Some(import) = imports.iter().find(|import| import.name.as_ref() == Some(name)) {
            return self.absolute(names, &import.path, steps);
        }
        imports.iter().filter(|import| import.glob).find_map(|import| {
            let from = self.absolute(names, &import.path, steps)?;
            if from == names { None } else { self.lookup(&from, name, steps) }
        })
    }

    /// Follows `path` from the root: down to a module that has a row, and through what the root and parents import.
    fn target(&self, path: &[String], glob: bool, steps: usize) -> Target {
        let mut len = 0;
        loop {
            let here = &path[..len];
            if len > 0 && !self.is_parent(here) {
                return Target::Module(here.join("::"));
            }
            let item = match path.get(len) {
                Some(name) => name.as_str(),
                None if glob => "*",
                None if len == 0 => return Target::Elsewhere,
                None => return Target::Parent,
            };
            if self.modules.contains_key(path.get(..=len).unwrap_or_default()) && len < path.len() {
                len += 1;
                continue;
            }
            let imported = self.modules.get(here).into_iter().flat_map(|module| &module.text.imports);
            let Some(import) = imported.into_iter().find(|import| import.name.as_deref() == Some(item))
            else {
                return match len {
                    0 => Target::OfRoot(item.to_owned()),
                    _ => Target::Module(here.join("::")),
                };
            };
            let (Some(found), Some(steps)) = (self.absolute(here, &import.path, steps), steps.checked_sub(1))
            else {
                return Target::Elsewhere;
            };
            return self.target(&[&found[..], &path[len + 1..]].concat(), glob, steps);
        }
    }
}
