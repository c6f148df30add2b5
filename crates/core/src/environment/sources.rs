//! The machine's own package sources for Debian 12, read from APT's configuration in both of its formats.
//!
//! Only entries are kept that can be trusted to be Debian: a suite of bookworm, the component main, signed by the
//! Debian archive keyring or by what the machine trusts by default, never `trusted=yes`. No mirror's name is written
//! anywhere but into the files of one build.

use std::fs;
use std::io;
use std::path::Path;

/// The suites that make up Debian 12.
const SUITES: &[&str] = &["bookworm", "bookworm-updates", "bookworm-security"];
/// Where keys of the Debian archive are, by Debian's own packages.
const KEYRINGS: &str = "/usr/share/keyrings/debian-archive-";
/// Most bytes of one file of sources.
const MAX_FILE: u64 = 1 << 20;

/// A place to get packages from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    uri: String,
    suite: String,
    /// Paths of keyrings; empty for the machine's default ones.
    signed_by: Vec<String>,
    /// Whether the age of its index is checked; as configured.
    check_valid_until: Option<String>,
}

impl Source {
    /// The suite, such as `bookworm-security`.
    pub(super) fn suite(&self) -> &str {
        &self.suite
    }

    /// As a line of `sources.list`.
    pub(super) fn line(&self) -> String {
        self.render(&self.uri)
    }

    /// The same without a password in it, fit for an image.
    pub(super) fn public_line(&self) -> String {
        let public = match self.uri.split_once("://") {
            Some((scheme, rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
                format!("{scheme}://{host}/{path}")
            }
            None => self.uri.clone(),
        };
        self.render(&public)
    }

    fn render(&self, uri: &str) -> String {
        let mut options = vec!["arch=amd64".to_owned()];
        if !self.signed_by.is_empty() {
            options.push(format!("signed-by={}", self.signed_by.join(",")));
        }
        if let Some(check) = &self.check_valid_until {
            options.push(format!("check-valid-until={check}"));
        }
        format!("deb [{}] {uri} {} main", options.join(" "), self.suite)
    }
}

/// Reads `sources.list` and `sources.list.d` below `etc_apt`, in APT's order. Entries that do not fit are left out.
pub(super) fn read(etc_apt: &Path) -> io::Result<Vec<Source>> {
    let mut files = vec![etc_apt.join("sources.list")];
    match fs::read_dir(etc_apt.join("sources.list.d")) {
        Ok(entries) => {
            let mut more = entries.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>()?;
            more.sort();
            files.extend(more);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut sources = Vec::new();
    for file in files {
        let parse = match file.extension().and_then(|e| e.to_str()) {
            Some("list") => one_line,
            Some("sources") => deb822,
            _ => continue,
        };
        let text = match fs::metadata(&file) {
            Ok(meta) if meta.is_file() && meta.len() <= MAX_FILE => fs::read(&file)?,
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        sources.extend(parse(&String::from_utf8_lossy(&text)));
    }
    let mut seen = std::collections::BTreeSet::new();
    sources.retain(|source: &Source| seen.insert(source.line()));
    Ok(sources)
}

/// `deb [options] uri suite component…`
fn one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(|line| one_entry(line.split('#').next()?.trim())).collect()
}

fn one_entry(line: &str) -> Option<Source> {
    let rest = line.strip_prefix("deb")?;
    let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut entry = Entry { enabled: true, ..Entry::default() };
    for option in options.split_whitespace() {
        let (key, value) = option.split_once('=')?;
        // `arch+=` and `arch-=` change a default that we do not know.
        let list = || value.split(',').map(str::to_owned).collect();
        match key.to_ascii_lowercase().as_str() {
            "arch" => entry.architectures = list(),
            "signed-by" => entry.signed_by = list(),
            "check-valid-until" => entry.check_valid_until = Some(value.to_owned()),
            "lang" | "target" | "pdiffs" | "by-hash" => {}
            "trusted" if no(value) => {}
            "allow-insecure" | "allow-weak" | "allow-downgrade-to-insecure" if no(value) => {}
            _ => return None,
        }
    }
    let mut words = rest.split_whitespace();
    entry.uris = vec![words.next()?.to_owned()];
    entry.suites = vec![words.next()?.to_owned()];
    entry.components = words.map(str::to_owned).collect();
    entry.sources().into_iter().next()
}

/// Stanzas of `Key: value`, with continued lines.
fn deb822(text: &str) -> Vec<Source> {
    stanzas(text)
        .flat_map(|fields| stanza(&fields).map(|entry| entry.sources()).unwrap_or_default())
        .collect()
}

fn stanza(fields: &[(String, String)]) -> Option<Entry> {
    let mut entry = Entry { enabled: true, ..Entry::default() };
    let mut is_binary = false;
    for (key, value) in fields {
        let list = || value.split_whitespace().map(str::to_owned).collect();
        match key.to_ascii_lowercase().as_str() {
            "types" => is_binary = value.split_whitespace().any(|t| t == "deb"),
            "uris" => entry.uris = list(),
            "suites" => entry.suites = list(),
            "components" => entry.components = list(),
            "architectures" => entry.architectures = list(),
            "enabled" => entry.enabled = !no(value),
            // A key block in place: whose it is cannot be told from here.
            "signed-by" if value.contains("BEGIN PGP") => return None,
            "signed-by" => {
                entry.signed_by = value.split([',', ' ', '\n']).map(str::trim).map(str::to_owned).collect()
            }
            "check-valid-until" => entry.check_valid_until = Some(value.clone()),
            "trusted" | "allow-insecure" | "allow-weak" | "allow-downgrade-to-insecure" if !no(value) => {
                return None;
            }
            _ => {}
        }
    }
    is_binary.then_some(entry)
}

/// The stanzas of a deb822 text: fields in order, continued lines joined by newlines, comments left out.
pub(super) fn stanzas(text: &str) -> impl Iterator<Item = Vec<(String, String)>> + '_ {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in lines.by_ref() {
            if line.starts_with('#') {
                continue;
            }
            if line.trim().is_empty() {
                if fields.is_empty() {
                    continue;
                }
                return Some(fields);
            }
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push('\n');
                    value.push_str(line.trim());
                }
            } else if let Some((key, value)) = line.split_once(':') {
                fields.push((key.trim().to_owned(), value.trim().to_owned()));
            }
        }
        (!fields.is_empty()).then_some(fields)
    })
}

#[derive(Default)]
struct Entry {
    enabled: bool,
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    architectures: Vec<String>,
    signed_by: Vec<String>,
    check_valid_until: Option<String>,
}

impl Entry {
    fn sources(self) -> Vec<Source> {
        let signed_by: Vec<_> = self.signed_by.into_iter().filter(|key| !key.is_empty()).collect();
        let is_debian = signed_by.iter().all(|key| key.starts_with(KEYRINGS) && is_word(key));
        let has_amd64 =
            self.architectures.is_empty() || self.architectures.iter().any(|arch| arch == "amd64");
        if !(self.enabled && is_debian && has_amd64 && self.components.iter().any(|c| c == "main")) {
            return Vec::new();
        }
        let check_valid_until =
            self.check_valid_until.map(|value| if no(&value) { "no" } else { "yes" }.to_owned());
        let mut out = Vec::new();
        for uri in self.uris.iter().filter(|uri| is_word(uri) && is_reachable(uri)) {
            for suite in self.suites.iter().filter(|suite| SUITES.contains(&suite.as_str())) {
                out.push(Source {
                    uri: uri.clone(),
                    suite: suite.clone(),
                    signed_by: signed_by.clone(),
                    check_valid_until: check_valid_until.clone(),
                });
            }
        }
        out
    }
}

/// Whether a value can be a word of a line without meaning more than it should.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '[' | ']' | '#' | '"' | '\''))
}

/// A disc that somebody would have to insert is no source for this.
fn is_reachable(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| scheme != "cdrom")
}

fn no(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "no" | "false" | "0" | "off" | "without" | "disable")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(sources: &[Source]) -> Vec<String> {
        sources.iter().map(Source::line).collect()
    }

    #[test]
    fn one_line_entries() {
        let found = one_line(
            "# comment\n\
             deb http://a.invalid/debian bookworm main contrib # more\n\
             deb [ arch=amd64,arm64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ] http://b.invalid/d bookworm-updates main\n\
             deb-src http://a.invalid/debian bookworm main\n\
             deb http://a.invalid/debian trixie main\n\
             deb http://a.invalid/debian bookworm contrib\n\
             deb [trusted=yes] http://c.invalid bookworm main\n\
             deb [signed-by=/etc/apt/keyrings/other.gpg] http://d.invalid bookworm main\n\
             deb [arch=arm64] http://e.invalid bookworm main\n\
             deb cdrom:[Debian_12]/ bookworm main\n\
             deb http://f.invalid bookworm/ \n",
        );
        assert_eq!(
            lines(&found),
            [
                "deb [arch=amd64] http://a.invalid/debian bookworm main",
                "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://b.invalid/d \
                 bookworm-updates main",
            ]
        );
    }

    #[test]
    fn deb822_entries() {
        let found = deb822(
            "Types: deb deb-src\nURIs: http://a.invalid/debian\n  http://b.invalid/debian\nSuites: bookworm\n \
             bookworm-updates\nComponents: main non-free\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\
             Check-Valid-Until: no\n\n# a comment\n\nTypes: deb\nEnabled: no\nURIs: http://c.invalid\nSuites: \
             bookworm\nComponents: main\n\nTypes: deb\nURIs: http://d.invalid\nSuites: bookworm\nComponents: main\n\
             Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n xyz\n\nTypes: deb\nTrusted: yes\nURIs: \
             http://e.invalid\nSuites: bookworm\nComponents: main\n",
        );
        assert_eq!(found.len(), 4);
        assert_eq!(
            found[0].line(),
            "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no] \
             http://a.invalid/debian bookworm main"
        );
        assert!(found.iter().all(|s| !s.uri.contains("d.invalid") && !s.uri.contains("e.invalid")));
    }

    #[test]
    fn passwords_stay_out_of_images() {
        let found = one_line("deb https://user:secret@a.invalid:8080/debian bookworm main");
        assert!(found[0].line().contains("user:secret@"));
        assert_eq!(found[0].public_line(), "deb [arch=amd64] https://a.invalid:8080/debian bookworm main");
    }

    #[test]
    fn files_are_read_in_order_and_nothing_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("sources.list", "deb http://a.invalid bookworm main\n");
        put(
            "sources.list.d/b.sources",
            "Types: deb\nURIs: http://b.invalid\nSuites: bookworm\nComponents: main\n",
        );
        put(
            "sources.list.d/c.list",
            "deb http://a.invalid bookworm main\ndeb http://c.invalid bookworm main\n",
        );
        put("sources.list.d/d.disabled", "deb http://d.invalid bookworm main\n");
        let uris: Vec<_> = read(dir.path()).unwrap().into_iter().map(|s| s.uri).collect();
        assert_eq!(uris, ["http://a.invalid", "http://b.invalid", "http://c.invalid"]);
    }

    proptest! {
        /// Whatever the files hold, what is passed on is lines of exactly the form we mean.
        #[test]
        fn only_debian_comes_out(
            text in "((deb|Types: deb|URIs:|Suites:|Components:|Signed-By:|trusted=yes|\\[|\\]|http://h.invalid|bookworm|main|/usr/share/keyrings/debian-archive-keyring.gpg|[ -~])[ \n]?){0,40}"
        ) {
            for source in one_line(&text).into_iter().chain(deb822(&text)) {
                let line = source.line();
                prop_assert!(!line.contains('\n'));
                prop_assert!(line.starts_with("deb [arch=amd64"));
                let end = [" ", source.suite(), " main"].concat();
                prop_assert!(line.ends_with(&end));
                prop_assert!(SUITES.contains(&source.suite()));
                prop_assert_eq!(line.matches('[').count(), 1);
                prop_assert!(!line.contains("trusted="));
            }
        }
    }
}
