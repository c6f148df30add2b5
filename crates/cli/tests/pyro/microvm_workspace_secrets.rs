//! Secrets reach the guest's commands, and nothing else.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::room::Room;

/// Long enough to be nobody else's, with what quoting changes.
const VALUE: &str = "pyro'Zq7 \"planted\\8c1d";
/// A part of it that no quoting changes.
const CORE: &[u8] = b"planted\\8c1d";

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Every file below `dir` in which a needle is, holes left out.
fn holding(dir: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(holding(&path, needle));
        } else if kind.is_file() && grep(&path, needle) {
            found.push(path);
        }
    }
    found
}

/// Whether a needle is in a file, whose holes are passed over.
fn grep(path: &Path, needle: &[u8]) -> bool {
    use rustix::fs::{SeekFrom, seek};
    let file = fs::File::open(path).unwrap();
    let mut at = 0;
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(start)).unwrap();
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        file.read_exact_at(&mut bytes, start).unwrap();
        let mut rest = &bytes[..];
        while let Some(found) = rest.iter().position(|byte| *byte == needle[0]) {
            if rest[found..].starts_with(needle) {
                return true;
            }
            rest = &rest[found + 1..];
        }
        at = end;
    }
    false
}

#[test]
fn a_planted_value_is_found_nowhere_but_in_its_own_file() {
    let room = Room::new();
    let file = room.world.home.path().join("given");
    fs::write(&file, format!("{VALUE}\n")).unwrap();
    let given = format!("FILED={}", file.display());
    let create = ["create", "debian:12-base", "--mem-mib", "256", "--name", "sec", "--secret-file", &given];
    let created = room.json(&[&create[..], &["--secret", "other.one=word-of-mouth"]].concat());
    fs::remove_file(&file).unwrap();
    assert_eq!(
        created["secrets"],
        json!([
            {"name": "other.one", "source_kind": "literal"},
            {"name": "FILED", "source_kind": "file"},
        ])
    );
    let id = created["workspace_id"].as_str().unwrap();
    let dir = room.dir().join(id);
    let mode = |path: &str| fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("secrets"), mode("secrets/FILED")), (0o700, 0o700, 0o600));

    // The guest has it, byte for byte, in memory; a command has it when it is to.
    let line = "test \"$TOKEN\" = \"$(cat /run/pyro-secrets/FILED)\" && stat -f -c %T /run/pyro-secrets && \
                wc -c < /run/pyro-secrets/FILED && tail -c 5 /run/pyro-secrets/FILED";
    let said = room.ok(&["exec", "--secret-env", "FILED=TOKEN", "sec", "--", line]);
    assert_eq!(said.stdout(), format!("tmpfs\n{}\n8c1d\n", VALUE.len() + 1));
    assert_eq!(room.sh("sec", "env | grep -c planted || true"), "0\n");

    // Whatever shows it: output, errors, names of programs, command lines in any quoting, a guest's death.
    let said =
        room.pyro(&["exec", "sec", "--", "cat /run/pyro-secrets/FILED; cat /run/pyro-secrets/FILED >&2"]);
    assert_eq!(said.stdout(), "[REDACTED]\n");
    assert!(said.err.starts_with("[REDACTED]\n"), "{said:?}");
    let mut shown = vec![said];
    for command in [&["printf", "%s", VALUE][..], &[VALUE, "x"], &["echo", "a", &format!("x{VALUE}y")]] {
        let args = [&["exec", "sec", "--json", "--"], command].concat();
        let said = room.pyro(&args);
        assert!(said.json()["command"].as_str().unwrap().contains("[REDACTED]"), "{said:?}");
        shown.push(said);
    }
    let line = format!("echo '{}' | wc -c", VALUE.replace('\'', "'\"'\"'"));
    room.pyro(&["exec", "sec", "--", &line]);
    room.sh("sec", "f=$(cat /run/pyro-secrets/FILED); for i in 1 2 3 4 5 6 7 8 9; do printf %s \"$f\"; done");
    // Until it is told to: what follows looks at it while it has the value.
    let late = "until [ -e /run/go ]; do sleep 0.1; done; echo \"$FILED\"";
    let running = room.world.start(&["workspace", "exec", "sec", "--secret-env", "FILED", "--", late]);

    // Wherever it could have been written down, also by a guest that syncs, stops and starts again.
    room.sh("sec", "sync");
    room.ok(&["snapshot", "create", "sec", "kept"]);
    let (keeper, vmm) = room.processes("sec");
    for pid in [keeper, vmm, running.id()] {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!contains(&bytes, CORE), "{pid}: {file}");
        }
    }
    room.sh("sec", "touch /run/go");
    let late = crate::support::finish(running);
    assert_eq!(late.stdout(), "[REDACTED]\n");
    shown.push(late);
    room.ok(&["stop", "sec"]);
    shown.push(room.pyro(&["status", "sec"]));
    shown.push(room.pyro(&["status", "sec", "--json"]));
    shown.push(room.pyro(&["list"]));
    shown.push(room.pyro(&["logs", "sec"]));
    shown.push(room.pyro(&["logs", "sec", "--json"]));
    shown.push(room.pyro(&["snapshot", "list", "sec"]));
    shown.push(room.pyro(&["start", "sec"]));
    assert_eq!(room.sh("sec", "wc -c < /run/pyro-secrets/FILED").trim(), (VALUE.len() + 1).to_string());
    shown.push(room.pyro(&["reset", "sec", "--snapshot", "kept"]));
    assert_eq!(room.sh("sec", "wc -c < /run/pyro-secrets/FILED").trim(), (VALUE.len() + 1).to_string());
    let last = "cat /run/pyro-secrets/FILED > /dev/console; echo c > /proc/sysrq-trigger; sleep 9";
    shown.push(room.pyro(&["exec", "sec", "--", last]));
    for said in &shown {
        assert!(!contains(&said.out, CORE) && !contains(said.err.as_bytes(), CORE), "{said:?}");
    }
    crate::support::eventually("it is stopped", || room.state("sec") == "stopped");
    assert_eq!(holding(room.world.home.path(), CORE), [dir.join("secrets/FILED")]);
    assert_eq!(holding(room.world.home.path(), b"word-of-mouth"), [dir.join("secrets/other.one")]);
    room.ok(&["delete", "sec"]);
    room.check_empty(&[]);
}

#[test]
fn a_value_is_redacted_wherever_output_is_cut() {
    let room = Room::new();
    let create =
        ["create", "debian:12-base", "--mem-mib", "256", "--name", "cut", "--secret", "T=hunter2-hunter3"];
    room.ok(&create);
    // Once for each place to cut it at, with a pause there.
    let line = "t=$(cat /run/pyro-secrets/T); n=${#t}; i=0; while [ $i -le $n ]; do \
                printf '<%s' \"$(printf %s \"$t\" | head -c $i)\"; sleep 0.05; \
                printf '%s>\\n' \"$(printf %s \"$t\" | tail -c +$((i+1)))\"; i=$((i+1)); done; printf 'hunter2-hunt'";
    let said = room.ok(&["exec", "cut", "--", line]);
    assert_eq!(said.stdout(), "<[REDACTED]>\n".repeat(16) + "hunter2-hunt");
    let logs = room.json(&["logs", "cut"]);
    assert_eq!(logs["entries"][0]["stdout"], said.stdout());
    // What was cut off by a timeout is no value either, and what is streamed is not held back for nothing.
    let said = room.pyro(&["exec", "--timeout-seconds", "1", "cut", "--", "printf '# hunter2'; sleep 60"]);
    assert_eq!((said.code, said.stdout().as_str()), (Some(124), "# hunter2"));
    // A fork has them too.
    let fork = room.ok(&["fork", "cut", "--id-only"]).stdout();
    let fork = fork.trim();
    assert_eq!(room.sh(fork, "cat /run/pyro-secrets/T"), "[REDACTED]");
    for workspace in ["cut", fork] {
        room.ok(&["delete", workspace]);
    }
    room.check_empty(&[]);
}

#[test]
fn what_a_guest_wrote_is_shown_without_its_secrets_and_exported_with_them() {
    const KEY: &str = "-----BEGIN-----\nplanted\\8c1d\nsecond line\n-----END-----\n";
    let room = Room::new();
    let seed = room.world.home.path().join("seed");
    fs::create_dir(&seed).unwrap();
    fs::write(seed.join("config"), "one\ntwo\nthree\n").unwrap();
    let args =
        ["workspace", "create", "debian:12-base", "--mem-mib", "256", "--name", "leaky", "--seed-path"];
    let secrets = ["--secret-file", "KEY=-", "--secret", "T=hunter2-hunter3"];
    let args = [&args[..], &[seed.to_str().unwrap()], &secrets].concat();
    // From standard input, which no other process sees; only one can come from there.
    let said = room.world.pyro_with_input(&[&args[..], &["--secret-file", "K2=-"]].concat(), KEY.as_bytes());
    assert!(said.code == Some(2) && said.err.contains("one secret only"), "{said:?}");
    let said = room.world.pyro_with_input(&args, KEY.as_bytes());
    assert_eq!(said.code, Some(0), "{said:?}");
    let line = "s=/run/pyro-secrets; echo \"token: $(cat $s/T) end\" > t; cp $s/KEY key; cat $s/T >> config; \
                mkdir many; for n in 1 2 3 4 5 6 7 8 9; do cp $s/KEY many/$n; done; echo > \"$(cat $s/T)\"; sync";
    room.sh("leaky", line);

    let mut shown = Vec::new();
    let read = room.json(&["file", "read", "leaky", "t"]);
    assert_eq!((&read["content"], &read["redacted"]), (&json!("token: [REDACTED] end\n"), &json!(true)));
    assert_eq!((&read["size_bytes"], &read["truncated"]), (&json!(27), &json!(false)));
    // Also where the reading ends within it.
    for most in 1..=27 {
        let read = room.json(&["file", "read", "leaky", "t", "--max-bytes", &most.to_string()]);
        let wanted = match most {
            1..=7 => &"token: "[..most],
            8..=22 => "token: [REDACTED]",
            _ => &"token: [REDACTED] end\n"[..most - 22 + 17],
        };
        assert_eq!(read["content"], wanted, "{most}");
        assert_eq!((&read["redacted"], &read["truncated"]), (&json!(most > 7), &json!(most < 27)), "{most}");
    }
    let said = room.ok(&["file", "read", "leaky", "key", "--content-only"]);
    assert_eq!(said.stdout(), "[REDACTED]\n");
    assert!(said.err.contains("a secret is in it"), "{said:?}");
    shown.push(said);
    let plain = room.json(&["file", "read", "leaky", "config", "--max-bytes", "8"]);
    assert_eq!((&plain["content"], &plain["redacted"]), (&json!("one\ntwo\n"), &json!(false)));
    shown.push(room.ok(&["file", "list", "leaky", "--recursive", "--json"]));
    let diff = room.ok(&["diff", "leaky", "--json"]);
    let entries = diff.json()["entries"].clone();
    assert_eq!(
        (&diff.json()["redacted"], diff.json()["summary"]["total"].as_u64()),
        (&json!(true), Some(14))
    );
    for entry in entries.as_array().unwrap() {
        let is_file = entry["artifact_type"] == "file";
        assert_eq!(entry["redacted"], is_file, "{entry}");
        assert_eq!(entry["text_patch"].as_str().unwrap().contains("[REDACTED]"), is_file, "{entry}");
    }
    shown.push(diff);
    let said = room.ok(&["diff", "leaky"]);
    assert!(said.err.contains("a secret is in what differs"), "{said:?}");
    shown.push(said);
    // A patch that does not fit is answered with lines of the file.
    let wrong = "--- a/t\n+++ b/t\n@@ -1 +1 @@\n-token: other end\n+x\n";
    let said = room.pyro(&["patch", "apply", "leaky", "--patch", wrong, "--json"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    shown.push(said);
    // What goes out as a file goes out as it is.
    let out = room.world.home.path().join("out");
    room.ok(&["export", "leaky", "key", "--output", out.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&out).unwrap(), KEY);

    room.ok(&["stop", "leaky"]);
    let read = room.json(&["disk", "read", "leaky", "/workspace/t", "--max-bytes", "10"]);
    assert_eq!((&read["content"], &read["redacted"]), (&json!("token: [REDACTED]"), &json!(true)));
    shown.push(room.ok(&["disk", "read", "leaky", "/workspace/key"]));
    shown.push(room.ok(&["disk", "list", "leaky", "/workspace"]));
    for said in &shown {
        for needle in [CORE, b"hunter2-", b"second line"] {
            assert!(!contains(&said.out, needle) && !contains(said.err.as_bytes(), needle), "{said:?}");
        }
    }
    room.ok(&["delete", "leaky"]);
    room.check_empty(&[]);
}

#[test]
fn what_cannot_be_a_secret_is_told_without_its_value() {
    let room = Room::new();
    for (secret, part) in [
        ("T=abc", "less than 4 bytes"),
        ("../T=hunter2", "cannot be the name of a secret"),
        ("=hunter2", "cannot be the name of a secret"),
        ("hunter2", "NAME=VALUE"),
    ] {
        let said = room.pyro(&["create", "debian:12-base", "--secret", secret]);
        assert!(matches!(said.code, Some(1 | 2)) && said.err.contains(part), "{said:?}");
        assert!(!said.err.contains("hunter2"), "{said:?}");
    }
    let said = room.pyro(&["create", "debian:12-base", "--secret-file", "T=/nowhere"]);
    assert!(said.code == Some(1) && said.err.contains("/nowhere"), "{said:?}");
    let twice = ["create", "debian:12-base", "--secret", "T=hunter2", "--secret", "T=hunter3"];
    let said = room.pyro(&twice);
    assert!(said.code == Some(1) && said.err.contains("two secrets"), "{said:?}");
    room.create("plain");
    let said = room.pyro(&["exec", "--secret-env", "T", "plain", "--", "true"]);
    assert!(said.code == Some(1) && said.err.contains("no secret \"T\""), "{said:?}");
    let said = room.pyro(&["exec", "--secret-env", "T=1-2", "plain", "--", "true"]);
    assert!(said.code == Some(2), "{said:?}");
    room.ok(&["delete", "plain"]);
    room.check_empty(&[]);
}
