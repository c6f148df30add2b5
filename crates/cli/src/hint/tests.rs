//! Every hint on every surface: the verbs, flags, tools and arguments that it names exist there.
//!
//! A surface that joins (an RPC, a binding) is one more [`Surface`].

use std::collections::{BTreeMap, BTreeSet};

use clap::CommandFactory as _;
use pyro_core::hint::Hint;

use super::for_people;
use crate::mcp::{for_models, vocabulary};

/// Somewhere hints are shown, and the names that it has.
trait Surface {
    fn name(&self) -> &'static str;
    fn words(&self, hint: &Hint) -> String;
    /// Names in `text` that this surface does not have.
    fn unknown(&self, text: &str) -> Vec<String>;
}

fn surfaces() -> Vec<Box<dyn Surface>> {
    vec![Box::new(CommandLine(crate::Cli::command())), Box::new(Mcp(vocabulary::tools()))]
}

/// Text in backticks, and text between those.
fn spans(text: &str) -> (Vec<&str>, Vec<&str>) {
    let parts: Vec<_> = text.split('`').collect();
    assert!(parts.len() % 2 == 1, "a backtick without its other: {text}");
    (parts.iter().skip(1).step_by(2).copied().collect(), parts.iter().step_by(2).copied().collect())
}

/// A word without what stands around it in a sentence.
fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).trim_end_matches('-')
}

fn is_flag(word: &str) -> bool {
    word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
}

struct CommandLine(clap::Command);

/// First words of backticked text that is no command of pyro: another program, or a line of a file.
const FOREIGN: [&str; 5] = ["apt-get", "cargo", "git", "Suites:", "Components:"];

/// Flags that stand for themselves, and the verbs whose failures lead to a hint that names them.
const FLAGS: [(&str, &[&str]); 5] = [
    ("--mem-mib", &["run", "workspace create"]),
    ("--network", &["run"]),
    ("--backend", &["run", "workspace create", "workspace start", "doctor"]),
    ("--skip-outside-links", &["workspace create", "workspace sync push", "workspace export"]),
    ("--secret-env", &["workspace exec", "workspace shell open", "workspace service start"]),
];

impl CommandLine {
    fn verb(&self, path: &str) -> Option<&clap::Command> {
        path.split(' ').try_fold(&self.0, |command, word| command.find_subcommand(word))
    }

    fn has_flag(command: &clap::Command, flag: &str) -> bool {
        let name = flag.trim_start_matches("--").split('=').next();
        command.get_arguments().any(|argument| argument.get_long() == name)
    }

    /// A command of pyro, after that word.
    fn command(&self, words: &str) -> Option<String> {
        let mut command = &self.0;
        let mut at_value = false;
        for word in words.split_whitespace().take_while(|word| *word != "--") {
            if is_flag(word) {
                if !Self::has_flag(command, word) {
                    return Some(format!("{} has no flag {word}", command.get_name()));
                }
                at_value = true;
            } else if command.has_subcommands() {
                match command.find_subcommand(word) {
                    Some(next) => command = next,
                    None => return Some(format!("{} has no verb {word}", command.get_name())),
                }
            } else if !at_value && command.get_positionals().next().is_none() {
                return Some(format!("{} takes no {word}", command.get_name()));
            }
        }
        None
    }

    fn flag_alone(&self, flag: &str) -> Option<String> {
        let Some((_, verbs)) = FLAGS.iter().find(|(name, _)| *name == flag) else {
            return Some(format!("{flag} of no verb"));
        };
        let lacks =
            verbs.iter().find(|path| !self.verb(path).is_some_and(|verb| Self::has_flag(verb, flag)))?;
        Some(format!("{lacks} has no flag {flag}"))
    }
}

impl Surface for CommandLine {
    fn name(&self) -> &'static str {
        "command line"
    }

    fn words(&self, hint: &Hint) -> String {
        for_people(hint)
    }

    fn unknown(&self, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let (quoted, between) = spans(text);
        for span in quoted {
            let first = span.split_whitespace().next().unwrap_or_default();
            match span.split_once("pyro ") {
                Some((_, command)) => found.extend(self.command(command)),
                None if is_flag(first) => found.extend(self.flag_alone(first)),
                None if FOREIGN.contains(&first) => {}
                None if first.starts_with(|c: char| c.is_alphanumeric()) => {
                    found.push(format!("`{span}` is no command"));
                }
                None => {}
            }
        }
        for span in between {
            let words: Vec<_> = span.split_whitespace().map(bare).collect();
            found.extend(words.iter().filter(|word| is_flag(word)).filter_map(|flag| self.flag_alone(flag)));
            let verbs = words.windows(2).filter(|two| two[0] == "pyro" && self.verb(two[1]).is_some());
            found.extend(verbs.map(|two| format!("{} {} is not in backticks", two[0], two[1])));
        }
        found
    }
}

/// The arguments of each tool.
struct Mcp(BTreeMap<String, BTreeSet<String>>);

/// Arguments that stand for themselves, and the tools whose failures lead to a hint that names them.
const ARGUMENTS: [(&str, &[&str]); 5] = [
    ("mem_mib", &["vm_run", "vm_create", "workspace_create"]),
    ("network", &["vm_run", "vm_create"]),
    ("skip_outside_links", &["workspace_create", "workspace_sync_push", "workspace_export"]),
    ("secret_env", &["workspace_exec", "shell_open", "service_start"]),
    ("output_path", &["workspace_export", "workspace_disk_export"]),
];

impl Mcp {
    fn argument_alone(&self, argument: &str) -> Option<String> {
        let Some((_, tools)) = ARGUMENTS.iter().find(|(name, _)| *name == argument) else {
            return Some(format!("{argument} is no tool, and an argument of none that is named"));
        };
        let lacks =
            tools.iter().find(|tool| !self.0.get(**tool).is_some_and(|all| all.contains(argument)))?;
        Some(format!("{lacks} has no {argument}"))
    }
}

impl Surface for Mcp {
    fn name(&self) -> &'static str {
        "MCP"
    }

    fn words(&self, hint: &Hint) -> String {
        for_models(hint)
    }

    fn unknown(&self, text: &str) -> Vec<String> {
        let (quoted, between) = spans(text);
        let mut names: Vec<_> =
            quoted.into_iter().filter(|span| span.starts_with(|c: char| c.is_alphanumeric())).collect();
        // A name with `_` is one without backticks too.
        let words = between.into_iter().flat_map(str::split_whitespace).map(bare);
        names.extend(words.filter(|word| word.trim_matches('_').contains('_')));
        let tools: Vec<_> = names.iter().filter_map(|name| self.0.get(*name)).collect();
        let is_argument = |name: &str| tools.iter().any(|arguments| arguments.contains(name));
        let unknown = names.iter().filter(|name| !self.0.contains_key(**name) && !is_argument(name));
        let mut found: Vec<_> = unknown.filter_map(|name| self.argument_alone(name)).collect();
        let of_people = text.contains("pyro ") || text.split_whitespace().map(bare).any(is_flag);
        found.extend(of_people.then(|| "words of the command line".to_owned()));
        found
    }
}

#[test]
fn what_a_hint_names_is_there() {
    let mut wrong = Vec::new();
    for surface in surfaces() {
        for hint in Hint::samples() {
            let text = surface.words(&hint);
            assert!(!text.is_empty() && !text.contains('\n'), "{hint:?}");
            let unknown = surface.unknown(&text);
            if !unknown.is_empty() {
                wrong.push(format!("{}: {hint:?}: {text:?}: {unknown:?}", surface.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A model passes these on, so they are in words of the command line, of verbs and flags that exist.
#[test]
fn what_the_person_is_to_be_told_is_there() {
    let people = CommandLine(crate::Cli::command());
    for text in vocabulary::words_for_the_person() {
        assert_eq!(people.unknown(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn what_is_not_there_is_found() {
    let [people, models] = surfaces().try_into().ok().unwrap();
    for text in [
        "`pyro workspace begin` does it",
        "`pyro begin`",
        "`pyro workspace start --force` does it",
        "`pyro doctor now`",
        "`workspace start` does it",
        "use --force",
        "use `--force`",
        "pyro doctor shows it",
        "`tar c . | pyro ran`",
        "`ls` shows it",
    ] {
        assert_eq!(people.unknown(text).len(), 1, "{text}: {:?}", people.unknown(text));
    }
    for text in [
        "`workspace_begin` does it",
        "workspace_begin does it",
        "`workspace_stop` with `force`",
        "`memory` is too large",
        "`pyro workspace stop`",
        "use --force",
        "`--force` ends it",
    ] {
        assert!(!models.unknown(text).is_empty(), "{text}");
    }
}

#[test]
fn words_say_what_helps() {
    for (hint, people, models) in [
        (Hint::LessMemory { available_mib: 1500 }, "at most 1500 MiB (--mem-mib)", "1500 MiB with `mem_mib`"),
        (Hint::ForceStop, "`pyro workspace stop --force`", "by force"),
        (Hint::MakeRuntime, "cargo xtask runtime", "the person"),
        (Hint::ReinstallEnvironment { name: "debian:12".into() }, "pyro env pull debian:12", "debian:12"),
        (Hint::WritableCache, "PYRO_ENVIRONMENT_CACHE_DIR", "the person"),
        (Hint::FreeCacheSpace { dir: "/c".into() }, "PYRO_ENVIRONMENT_CACHE_DIR", "in /c"),
        (Hint::CheckPackageSources, "apt-get update", "the person"),
        (Hint::CheckSignatures, "debian-archive-keyring", "the person"),
        (Hint::AddPackageSource, "/etc/apt/sources.list.d", "bookworm"),
        (Hint::AddPackageSource, "bookworm", "the person"),
        (
            Hint::InstallPackages { packages: vec!["e2fsprogs".into()] },
            "apt-get install e2fsprogs",
            "e2fsprogs",
        ),
        (Hint::SkipOutsideLinks, "--skip-outside-links", "`skip_outside_links`"),
        (Hint::WithoutNetwork, "--network", "`network`"),
        (Hint::StartWorkspace, "`pyro workspace start`", "`workspace_start`"),
    ] {
        assert!(for_people(&hint).contains(people), "{}", for_people(&hint));
        assert!(for_models(&hint).contains(models), "{}", for_models(&hint));
    }
}
