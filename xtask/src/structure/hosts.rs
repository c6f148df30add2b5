//! No name of a package mirror or registry in the tree: every machine has its own, configured where its tools look.

use std::path::Path;

use super::Violation;

/// Cargo writes into its lock file where crates come from, whatever this machine's source is.
const EXEMPT: [&str; 2] = ["Cargo.lock", "fuzz/Cargo.lock"];

/// In two halves, so that this file does not hold what it looks for.
const HOSTS: [(&str, &str); 11] = [
    ("debian.", "org/debian"),
    ("deb.debian", ".org"),
    ("snapshot.debian", ".org"),
    ("archive.ubuntu", ".com"),
    ("crates", ".io"),
    ("static.rust-", "lang.org"),
    ("py", "pi.org"),
    ("pythonhosted", ".org"),
    ("npmjs", ".org"),
    ("proxy.golang", ".org"),
    ("cdn.kernel", ".org"),
];

/// Checks one text file.
pub(super) fn check(path: &Path, text: &str) -> Vec<Violation> {
    if EXEMPT.iter().any(|name| path == Path::new(name)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for (one, two) in HOSTS {
            let host = format!("{one}{two}");
            if line.to_ascii_lowercase().contains(&host) {
                found.push(Violation {
                    path: path.to_owned(),
                    line: number,
                    what: format!("names the package host {host}"),
                });
            }
        }
    }
    found
}
