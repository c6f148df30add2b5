//! Every decoder of bytes that somebody else wrote has a fuzz target: `fuzz/decoders.txt` says which, and is compared here
//! with the targets that there are and with the code. Each comparison would notice a decoder that was forgotten.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Crates whose public functions that take bytes are all in the list.
const CRATES: [&str; 2] = ["proto", "formats"];
/// What an argument looks like through which bytes come in.
const BYTES: [&str; 6] = ["&[u8]", "&'t [u8]", "[u8; HEADER]", "File", "dyn Read", "Into<HostPath>"];

/// A line of the list.
struct Decoder {
    krate: String,
    path: String,
    /// Empty for what decodes nothing.
    targets: Vec<String>,
}

/// What is wrong in the tree at `root`.
fn check(root: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    let list = decoders(&read(&root.join("fuzz/decoders.txt")), &mut wrong);
    let targets = targets(&read(&root.join("fuzz/Cargo.toml")));
    for target in &targets {
        if !list.iter().any(|decoder| decoder.targets.contains(target)) {
            wrong.push(format!("the target {target} is that of no decoder"));
        }
    }
    for Decoder { krate, path, targets: own } in &list {
        let (module, name) = path.split_once("::").unwrap_or((path, ""));
        let source = module_source(&root.join("crates").join(krate).join("src"), module);
        let defined = ["fn", "struct", "enum"].iter().any(|kind| has(&source, &format!("pub {kind} {name}")));
        if source.is_empty() || !name.is_empty() && !defined {
            wrong.push(format!("{krate} has no {path}"));
            continue;
        }
        for target in own {
            let file = root.join("fuzz/fuzz_targets").join(target).with_extension("rs");
            if !targets.contains(target) {
                wrong.push(format!("{krate} {path}: there is no target {target}"));
            } else if !names(&read(&file), path) {
                wrong.push(format!("{krate} {path}: the target {target} does not name it"));
            }
        }
    }
    for krate in CRATES {
        let listed = |path: &str| {
            list.iter().any(|decoder| {
                let below = path.strip_prefix(&decoder.path).is_some_and(|rest| rest.starts_with("::"));
                decoder.krate == krate && (decoder.path == path || below)
            })
        };
        let src = root.join("crates").join(krate).join("src");
        for module in public_modules(&read(&src.join("lib.rs"))) {
            let source = module_source(&src, &module);
            let any = list.iter().any(|decoder| {
                decoder.krate == krate && decoder.path.split("::").next() == Some(module.as_str())
            });
            if krate == "formats" && !any {
                wrong.push(format!("the module {module} of {krate} is not in the list"));
            }
            for name in takers(&source) {
                let path = format!("{module}::{name}");
                if !listed(&path) {
                    wrong.push(format!("{krate} {path} takes bytes and is not in the list"));
                }
            }
        }
    }
    let proto = root.join("crates/proto/src");
    for name in messages(&["message", "files", "jobs"].map(|module| module_source(&proto, module)).concat()) {
        if !list.iter().any(|decoder| decoder.path == format!("message::{name}")) {
            wrong.push(format!("proto message::{name} is a message and is not in the list"));
        }
    }
    wrong
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn decoders(text: &str, wrong: &mut Vec<String>) -> Vec<Decoder> {
    let mut list = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let targets: Vec<String> = match words[..] {
            [_, _, "-", _, ..] => Vec::new(),
            [_, _, first, ..] if first != "-" => words[2..].iter().map(|word| (*word).to_owned()).collect(),
            _ => {
                wrong.push(format!("neither a target nor a reason: {line}"));
                continue;
            }
        };
        list.push(Decoder { krate: words[0].to_owned(), path: words[1].to_owned(), targets });
    }
    list
}

fn targets(manifest: &str) -> BTreeSet<String> {
    let manifest: toml::Table = manifest.parse().unwrap();
    let bins = manifest.get("bin").and_then(|bins| bins.as_array()).into_iter().flatten();
    bins.map(|bin| bin["name"].as_str().unwrap().to_owned()).collect()
}

/// Whether a target has the decoder's name, or that of what makes it, in its code.
fn names(target: &str, path: &str) -> bool {
    let last = path.rsplit("::").next().unwrap_or(path);
    // What only another type gives out is used without its name.
    let given_by: &[&str] = match last {
        "RedactedStream" => &["stream"],
        "parse_header" => &["FrameReader"],
        _ => &[],
    };
    let code: Vec<&str> = target.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    [last].iter().chain(given_by).any(|name| has(&code.join("\n"), name))
}

/// The code of a module, with the modules in it and without comments and unit tests.
fn module_source(src: &Path, module: &str) -> String {
    let mut source = code(&read(&src.join(module).with_extension("rs")));
    let mut entries: Vec<_> =
        fs::read_dir(src.join(module)).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            source += &code(&read(&path));
        }
    }
    source
}

fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = product.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn public_modules(lib: &str) -> Vec<String> {
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// Public functions that take bytes, and the types that have such functions.
fn takers(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut owner = "";
    let mut rest = source;
    while let Some((line, after)) = rest.split_once('\n') {
        if line.starts_with("impl") {
            let head = line.split(" where").next().unwrap_or(line);
            let named = head.rsplit(" for ").next().unwrap_or(head).trim_start_matches("impl");
            // What is behind the parameters of the impl itself.
            let named =
                if named.starts_with('<') { named.split_once("> ").map_or("", |all| all.1) } else { named };
            owner = named.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
        } else if line == "}" {
            owner = "";
        }
        let method = line.strip_prefix("    pub fn ").filter(|_| !owner.is_empty());
        let function = line.strip_prefix("pub fn ").or_else(|| line.strip_prefix("pub async fn "));
        if let Some(name) = method.or(function) {
            let name = name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
            let begin = &rest[rest.find('(').unwrap_or(0)..];
            let end = begin.find(") ->").or_else(|| begin.find(") {")).unwrap_or(begin.len());
            let generics = &rest[..rest.find('(').unwrap_or(0)];
            if BYTES.iter().any(|bytes| has(&begin[..end], bytes) || has(generics, bytes)) {
                found.insert(if method.is_some() { owner.to_owned() } else { name.to_owned() });
            }
        }
        rest = after;
    }
    found
}

/// Enums that are sent and are part of no other type.
fn messages(source: &str) -> Vec<String> {
    let name = |line: &str| -> Option<String> {
        let name = line.strip_prefix("pub enum ")?;
        Some(name.split(|c: char| !c.is_alphanumeric()).next()?.to_owned())
    };
    let enums: Vec<String> = source.lines().filter_map(name).collect();
    let part = |name: &String| {
        let other = |line: &&str| !line.starts_with("pub enum") && !line.starts_with("impl");
        source.lines().filter(other).any(|line| has(line, name))
    };
    enums.into_iter().filter(|name| !part(name)).collect()
}

/// Whether `word` stands in `text` by itself.
fn has(text: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word)
        .any(|(at, _)| !part(text[..at].chars().next_back()) && !part(text[at + word.len()..].chars().next()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn every_decoder_has_a_target() {
    let wrong = check(root());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_code_is_looked_at() {
    let src = |krate: &str| root().join("crates").join(krate).join("src");
    let archive = takers(&module_source(&src("formats"), "archive"));
    assert!(archive.is_superset(&["Sink", "Source", "look"].map(str::to_owned).into()), "{archive:?}");
    let record = takers(&module_source(&src("proto"), "record"));
    assert!(record.contains("Decoder"), "{record:?}");
    assert_eq!(messages(&module_source(&src("proto"), "message")).len(), 4);
}

/// What is found in a small tree after `change` of a file.
fn planted(file: &str, change: impl Fn(String) -> String) -> Vec<String> {
    let bin = |name: &str| format!("[[bin]]\nname = \"{name}\"\n");
    let files = [
        (
            "fuzz/decoders.txt",
            "# x\nproto message::Reply a\nproto frame::Reader a b\nformats disk::open b\n".into(),
        ),
        ("fuzz/Cargo.toml", bin("a") + &bin("b")),
        ("fuzz/fuzz_targets/a.rs", "use {Reply, Reader};\n".into()),
        ("fuzz/fuzz_targets/b.rs", "use {Reader, open};\n".into()),
        ("crates/proto/src/lib.rs", "pub mod frame;\npub mod message;\n".into()),
        (
            "crates/proto/src/frame.rs",
            "pub struct Reader;\nimpl<R> Reader<R> {\n    pub fn new(b: &[u8]) {}\n}\n".into(),
        ),
        ("crates/proto/src/message.rs", "pub enum Reply {\n    A(Part),\n}\npub enum Part {}\n".into()),
        ("crates/formats/src/lib.rs", "pub mod disk;\n".into()),
        ("crates/formats/src/disk/mod.rs", "pub use image::open;\n".into()),
        ("crates/formats/src/disk/image.rs", "pub fn open(\n    image: File,\n) -> u8 {\n}\n".into()),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let text: String = text;
        let full = dir.path().join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, if path == file { change(text) } else { text }).unwrap();
    }
    check(dir.path())
}

#[track_caller]
fn one(file: &str, change: impl Fn(String) -> String, expected: &str) {
    let wrong = planted(file, change);
    assert!(wrong.len() == 1 && wrong[0].contains(expected), "{expected}: {wrong:#?}");
}

#[test]
fn a_small_tree_is_as_it_should_be() {
    assert_eq!(planted("", |text| text), Vec::<String>::new());
}

#[test]
fn what_was_forgotten_is_found() {
    let add = |more: &'static str| move |text: String| text + more;
    let list = "fuzz/decoders.txt";
    one(list, add("formats disk::gone b\n"), "formats has no disk::gone");
    one(list, add("formats gone b\n"), "formats has no gone");
    one(list, add("formats disk -\n"), "neither a target nor a reason");
    one(list, add("formats disk\n"), "neither a target nor a reason");
    one(list, |text| text.replace("open b", "open b c"), "there is no target c");
    one(list, |text| text.replace("open b", "open a b"), "the target a does not name it");
    one("fuzz/Cargo.toml", add("[[bin]]\nname = \"c\"\n"), "the target c is that of no decoder");
    one("crates/formats/src/lib.rs", add("pub mod tar;\n"), "the module tar of formats is not in the list");
    let image = "crates/formats/src/disk/image.rs";
    one(image, add("pub fn look(stream: &mut dyn Read) {}\n"), "formats disk::look takes bytes");
    let method =
        "impl<'a> Log<'a> {\n    pub fn replay(\n        self,\n        bytes: &[u8],\n    ) {\n    }\n}\n";
    one(image, add(method), "formats disk::Log takes bytes");
    one(
        "crates/proto/src/frame.rs",
        add("pub fn parse(header: [u8; HEADER]) {}\n"),
        "proto frame::parse takes bytes",
    );
    one("crates/proto/src/message.rs", add("pub enum Event {}\n"), "proto message::Event is a message");
    let own = |text: String| text.replace("A(Part)", "A");
    one("crates/proto/src/message.rs", own, "proto message::Part is a message");
}

#[test]
fn what_takes_no_bytes_needs_no_line() {
    let more = "pub fn hint(&self) {}\nfn inner(bytes: &[u8]) {}\nimpl Log {\n    pub(super) fn x(bytes: &[u8]) {}\n}\n";
    assert!(planted("crates/formats/src/disk/image.rs", |text| text + more).is_empty());
    assert!(planted("fuzz/decoders.txt", |text| text + "formats disk - a reason\n").is_empty());
}
