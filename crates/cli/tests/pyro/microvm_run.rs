//! `pyro run`, `env`, `doctor` and `demo` when all is well.

use pyro_core::backend::Preference;
use serde_json::Value;

use crate::backends::on_each_backend;
use crate::support::{Traces, World};

on_each_backend! {
    git_prints_its_version
    it_is_another_machine
    streams_are_passed_byte_for_byte
    arguments_arrive_untouched
    the_exit_code_is_the_commands_own
    a_timeout_kills_all_and_exits_124
    a_background_child_does_not_hold_the_run
    json_is_the_contracts_object
    output_comes_as_it_happens
    a_reader_that_goes_away_ends_the_run_quietly
    a_terminal_is_a_terminal
    the_demo_prints_its_life
    the_doctor_boots_and_explains
    nothing_is_left_of_a_run
}

fn git_prints_its_version(backend: Preference) {
    let world = World::on(backend);
    // The first of its kind makes a template, and says so.
    world.pyro(&["run", "debian:12", "--", "true"]);
    let said = world.pyro(&["run", "debian:12", "--", "git", "--version"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout().starts_with("git version 2."), "{said:?}");
    let lines: Vec<_> = said.err.lines().collect();
    assert_eq!(lines[0], "[run] phase=create environment=debian:12");
    assert!(lines[1].starts_with("[run] phase=start vm_id="), "{said:?}");
    assert!(lines[2].starts_with("[run] phase=execute vm_id="), "{said:?}");
    let last = "[run] environment=debian:12 execution_mode=guest_vsock exit_code=0 duration_ms=";
    assert!(lines[3].starts_with(last), "{said:?}");
    assert_eq!(lines.len(), 4, "{said:?}");
}

fn it_is_another_machine(backend: Preference) {
    let world = World::on(backend);
    let script = "cat /proc/sys/kernel/osrelease; echo $$; hostname; pwd; id -u; ls -A /workspace; cat /proc/1/comm; \
                  echo $HOME; test -e /dev/kvm || echo no-kvm; ls /sys/class/net; readlink -f /dev/fd; stat -c %a /tmp /dev/shm; \
                  cat /etc/machine-id | wc -c; touch /root/x /workspace/y /usr/bin/z && echo writable";
    let said = world.pyro(&["run", "debian:12-base", "--", script]);
    let text = said.stdout();
    let mut lines = text.lines();
    let mut next = || lines.next().unwrap_or_default();
    assert!(next().starts_with("6.1."), "{said:?}");
    assert!(next().parse::<u32>().unwrap() < 500, "{said:?}");
    assert!(next().starts_with("pyro-"), "{said:?}");
    assert_eq!((next(), next()), ("/workspace", "0"), "{said:?}");
    next();
    assert_eq!((next(), next()), ("/root", "no-kvm"), "{said:?}");
    assert_eq!(next(), "lo", "{said:?}");
    assert!(next().starts_with("/proc/"), "{said:?}");
    assert_eq!((next(), next(), next(), next()), ("1777", "1777", "33", "writable"), "{said:?}");
}

fn streams_are_passed_byte_for_byte(backend: Preference) {
    let world = World::on(backend);
    let said =
        world.pyro(&["run", "debian:12-base", "--", r"printf '\377\000\n'; printf 'e\376' >&2; exit 3"]);
    assert_eq!((said.code, &said.out[..]), (Some(3), &b"\xff\x00\n"[..]));
    let world = World::on(backend);
    let said = world.pyro_with_input(&["run", "debian:12-base", "--", "cat; echo; wc -c"], b"all \xfe of it");
    assert_eq!(said.out, b"all \xfe of it\n0\n", "{said:?}");
}

fn arguments_arrive_untouched(backend: Preference) {
    let world = World::on(backend);
    let long = "x".repeat(100_000);
    let odd = "a\nb 'c' \"d\" $e `f` \\g";
    let said = world.pyro(&["run", "debian:12-base", "--", "printf", "%s|", odd, "", "*", &long]);
    assert_eq!(said.stdout(), format!("{odd}||*|{long}|"), "{}", said.err);
    let said = world.pyro(&["run", "debian:12-base", "--", "echo $HOME | wc -c"]);
    assert_eq!(said.stdout().trim(), "6", "{said:?}");
}

fn the_exit_code_is_the_commands_own(backend: Preference) {
    let world = World::on(backend);
    for (words, code) in [
        (&["exit 7"][..], 7),
        (&["nosuchprogram", "x"], 127),
        (&["/nosuch/program", "x"], 127),
        (&["/etc/passwd", "x"], 126),
        (&["kill -TERM $$"], 143),
        (&["sh", "-c", "kill -SEGV $$"], 139),
    ] {
        let mut args = vec!["run", "debian:12-base", "--"];
        args.extend(words);
        let said = world.pyro(&args);
        assert_eq!(said.code, Some(code), "{words:?} {said:?}");
        if code == 126 || code == 127 {
            assert!(said.err.contains(words[0].split(' ').next().unwrap()), "{said:?}");
        }
        assert!(said.last_line().contains(&format!("exit_code={code} ")), "{said:?}");
    }
}

fn a_timeout_kills_all_and_exits_124(backend: Preference) {
    let world = World::on(backend);
    let script = "echo before; setsid sleep 1000 & sleep 1000";
    let said = world.pyro(&["run", "--timeout-seconds", "2", "debian:12-base", "--", script]);
    assert_eq!((said.code, &said.stdout()[..]), (Some(124), "before\n"), "{said:?}");
    assert!(said.err.contains("[run] timed out after 2 s"), "{said:?}");
}

fn a_background_child_does_not_hold_the_run(backend: Preference) {
    let world = World::on(backend);
    let said = world.pyro(&["run", "debian:12-base", "--", "sleep 1000 & echo done"]);
    assert_eq!((said.code, &said.stdout()[..]), (Some(0), "done\n"), "{said:?}");
}

fn json_is_the_contracts_object(backend: Preference) {
    let world = World::on(backend);
    let said = world.pyro(&["run", "--json", "debian:12-base", "--", "echo out; echo err >&2; exit 4"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    let object = said.json();
    has_fields(&object, "run_in_vm");
    assert_eq!(object["stdout"], "out\n");
    assert_eq!(object["stderr"], "err\n");
    assert_eq!(object["exit_code"], 4);
    assert_eq!(object["command"], "echo out; echo err >&2; exit 4");
    assert_eq!(object["execution_mode"], "guest_vsock");
    assert_eq!(object["backend"], backend.name());
    assert_eq!(object["cleanup"]["deleted"], true);
    assert_eq!(object["stdout_bytes"], 4);
    assert_eq!(object["stdout_truncated"], false);
    // Two-space indent, sorted keys, one object.
    assert_eq!(said.stdout(), format!("{}\n", serde_json::to_string_pretty(&object).unwrap()));
    let said =
        world.pyro(&["run", "--json", "debian:12-base", "--", "head -c 5000000 /dev/zero | tr '\\0' a"]);
    let object = said.json();
    assert_eq!((&object["stdout_bytes"], &object["stdout_truncated"]), (&5_000_000.into(), &true.into()));
    assert!(object["stdout"].as_str().unwrap().len() < 2_100_000 + 100);
    let said = world.pyro(&["run", "--json", "debian:12-base", "--", r"printf '\377'"]);
    assert_eq!(said.json()["stdout_lossy"], true);
}

fn output_comes_as_it_happens(backend: Preference) {
    use std::io::{BufRead, Write};
    let world = World::on(backend);
    let mut command =
        world.command(&["run", "debian:12-base", "--", "echo first; read line; echo got $line"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    child.stdin.take().unwrap().write_all(b"second\n").unwrap();
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "got second\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn a_reader_that_goes_away_ends_the_run_quietly(backend: Preference) {
    use std::io::BufRead;
    let world = World::on(backend);
    let mut child = world.start(&["run", "debian:12-base", "--", "yes"]);
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    drop(out);
    let said = crate::support::finish(child);
    assert_eq!(said.code, Some(141), "{said:?}");
    assert!(!said.err.contains("[error]"), "{said:?}");
}

fn a_terminal_is_a_terminal(backend: Preference) {
    let world = World::on(backend);
    // script(1) gives pyro a terminal of its own.
    let line = format!(
        "stty rows 33 cols 99; {} run -it debian:12-base -- 'tty; stty size; echo in: $(head -n 1)'",
        env!("CARGO_BIN_EXE_pyro")
    );
    let mut command = std::process::Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env("HOME", world.home.path()).env("TERM", "xterm");
    command.envs(world.variables.iter().map(|(name, value)| (name, value)));
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    use std::io::{Read, Write};
    let mut out = child.stdout.take().unwrap();
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains("33 99") {
        let n = out.read(&mut buffer).unwrap();
        assert!(n > 0, "{text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    child.stdin.as_mut().unwrap().write_all(b"typed\r").unwrap();
    while !text.contains("in: typed") {
        let n = out.read(&mut buffer).unwrap();
        assert!(n > 0, "{text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    assert!(text.contains("/dev/pts/"), "{text:?}");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0), "{text:?}");
}

fn the_demo_prints_its_life(backend: Preference) {
    let said = World::on(backend).pyro(&["demo"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let object = said.json();
    has_fields(&object, "demo");
    assert!(object["stdout"].as_str().unwrap().starts_with("git version"), "{object}");
    assert_eq!(object["cleanup"]["reason"], "post_exec_cleanup");
}

fn the_doctor_boots_and_explains(backend: Preference) {
    let world = World::on(backend);
    let said = world.pyro(&["doctor", "--json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let object = said.json();
    has_fields(&object, "doctor");
    assert_eq!(object["runtime_ok"], true, "{object}");
    assert_eq!(object["runtime"]["capabilities"]["supports_vm_boot"], true);
    assert_eq!(object["runtime"]["capabilities"]["supports_guest_network"], false);
    assert!(!object["backend"]["why"].as_str().unwrap().is_empty());
    let said = world.pyro(&["doctor"]);
    assert!(said.stdout().contains("Guests can run here."), "{said:?}");
    // What the doctor found out is remembered: the next run decides nothing anew.
    let said = world.pyro(&["run", "debian:12-base", "--", "true"]);
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn environments_are_listed_and_inspected() {
    let world = World::new();
    let said = world.pyro(&["env", "list", "--json"]);
    let object = said.json();
    has_fields(&object, "list_environments (CLI --json)");
    let names: Vec<_> =
        object["environments"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["debian:12", "debian:12-base", "debian:12-build"]);
    let said = world.pyro(&["env", "inspect", "debian:12", "--json"]);
    let object = said.json();
    has_fields(&object, "inspect_environment");
    for file in ["kernel_image", "rootfs_image", "install_manifest"] {
        assert!(std::path::Path::new(object[file].as_str().unwrap()).is_file(), "{file}: {object}");
    }
    assert!(world.pyro(&["env", "list"]).stdout().contains("debian:12-build"));
}

fn nothing_is_left_of_a_run(backend: Preference) {
    let world = World::on(backend);
    // The first run remembers the choice of a backend, on purpose.
    world.pyro(&["run", "debian:12-base", "--", "true"]);
    let before = Traces::of(&world);
    world.pyro(&[
        "run",
        "debian:12-base",
        "--",
        "dd if=/dev/zero of=/workspace/big bs=1M count=20 status=none",
    ]);
    world.pyro(&["run", "debian:12-base", "--", "exit 9"]);
    world.pyro(&["run", "--timeout-seconds", "1", "debian:12-base", "--", "sleep 100"]);
    before.check(&world);
}

/// Every field of the contract's payload is there, down to its nested objects.
fn has_fields(object: &Value, payload: &str) {
    let contract: Value = serde_json::from_str(include_str!("data/payloads.json")).unwrap();
    has(object, &contract[payload], payload);
}

fn has(object: &Value, wanted: &Value, path: &str) {
    match wanted {
        Value::Object(fields) => {
            for (name, wanted) in fields {
                let path = format!("{path}.{name}");
                let found = object.get(name).unwrap_or_else(|| panic!("{path} is missing: {object}"));
                has(found, wanted, &path);
            }
        }
        Value::Array(items) => {
            let found = object.as_array().unwrap_or_else(|| panic!("{path} is no array: {object}"));
            if let (Some(found), Some(wanted)) = (found.first(), items.first()) {
                has(found, wanted, path);
            }
        }
        Value::String(kind) => {
            let kind = kind.as_str();
            let fits = match kind {
                "str" | "str, when installed" => object.is_string() || object.is_null(),
                "int" => object.is_u64() || object.is_i64(),
                "float" => object.is_number(),
                "bool" => object.is_boolean(),
                "str-or-null" | "null-or-value" => true,
                _ => !object.is_null(),
            };
            assert!(fits, "{path} is {object}, not {kind}");
        }
        _ => {}
    }
}
