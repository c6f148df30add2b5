//! Services of a workspace: ready in four ways or told why not, logged, stopped with all they started.

use serde_json::Value;

use crate::room::{Room, signal};
use crate::support::{eventually, finish, running};

fn names(room: &Room) -> Vec<(String, String)> {
    let list = room.json(&["service", "list", "w"]);
    let text = |service: &Value, key: &str| service[key].as_str().unwrap().to_owned();
    let services = list["services"].as_array().unwrap();
    services.iter().map(|each| (text(each, "service_name"), text(each, "state"))).collect()
}

fn start(room: &Room, args: &[&str]) -> Value {
    room.json(&[&["service", "start", "w"], args].concat())
}

#[test]
fn a_service_is_ready_in_each_way_and_stopped_with_all_it_started() {
    let room = Room::new();
    room.create("w");
    let server = r#"use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0],
        Listen => 5) or die; while (my $c = $s->accept) { print $c "HTTP/1.0 204 No Content\r\n\r\n"; close $c }"#;
    for (name, readiness, kind) in [
        ("file", ["--ready-file", "ready"], "file"),
        ("tcp", ["--ready-tcp", "127.0.0.1:7001"], "tcp"),
        ("http", ["--ready-http", "http://localhost:7002/x"], "http"),
        ("command", ["--ready-command", "test -s ready"], "command"),
    ] {
        let port = if name == "tcp" { "7001" } else { "7002" };
        let command: &[&str] = match name {
            "tcp" | "http" => &["perl", "-e", server, port],
            _ => &["echo starting; sleep 0.3; echo yes > ready; sleep 1000 & sleep 1000"],
        };
        let args = [&[name, "--ready-interval-ms", "50"], &readiness[..], &["--"], command].concat();
        let service = start(&room, &args);
        assert_eq!((&service["state"], &service["readiness"]["type"]), (&"running".into(), &kind.into()));
        assert!(service["ready_at"].as_f64() >= service["started_at"].as_f64(), "{service}");
        assert!(service["pid"].is_u64() && service["published_ports"] == Value::Array(vec![]), "{service}");
    }
    let status = room.json(&["status", "w"]);
    assert_eq!((&status["service_count"], &status["running_service_count"]), (&4.into(), &4.into()));
    let said = room.pyro(&["service", "start", "w", "tcp", "--", "true"]);
    assert!(said.code == Some(1) && said.err.contains("runs already"), "{said:?}");

    let stopped = room.json(&["service", "stop", "w", "file"]);
    assert_eq!((&stopped["state"], &stopped["stop_reason"]), (&"stopped".into(), &"sigterm".into()));
    assert_eq!((&stopped["exit_code"], stopped["ended_at"].is_f64()), (&143.into(), true));
    // `command` has two of its own left.
    eventually("two are left", || room.sh("w", "grep -l sleep /proc/[0-9]*/comm | wc -l") == "2\n");
    // A name is used again once its service has ended; its log begins anew.
    start(&room, &["file", "--", "echo second"]);
    eventually("it ends", || room.json(&["service", "status", "w", "file"])["state"] == "exited");
    let logs = room.json(&["service", "logs", "w", "file"]);
    assert_eq!((&logs["stdout"], &logs["exit_code"]), (&"second\n".into(), &0.into()));

    room.ok(&["stop", "w"]);
    let states: Vec<_> = names(&room).into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, ["exited", "stopped", "stopped", "stopped"]);
    let status = room.json(&["service", "status", "w", "tcp"]);
    assert_eq!((&status["stop_reason"], status["exit_code"].is_null()), (&"workspace_stopped".into(), false));
    assert_eq!(room.json(&["status", "w"])["running_service_count"], 0);
    assert_eq!(room.json(&["service", "logs", "w", "file"])["stdout"], "second\n");
    room.ok(&["start", "w"]);
    start(&room, &["tcp", "--", "sleep 1000"]);
    let (keeper, vmm) = room.processes("w");
    signal(keeper, "-KILL");
    eventually("its VM is gone", || !running(vmm));
    assert_eq!(room.json(&["service", "list", "w"])["running_count"], 0);
    assert_eq!(room.json(&["list"])["workspaces"][0]["running_service_count"], 0);
    room.ok(&["delete", "w"]);
    room.check_empty(&[vmm]);
}

#[test]
fn a_service_that_is_not_ready_says_why_and_is_gone() {
    let room = Room::new();
    room.create("w");
    let fail = |args: &[&str], parts: &[&str]| {
        let said = room.pyro(&[&["service", "start", "w"], args].concat());
        assert_eq!(said.code, Some(1), "{said:?}");
        for part in parts {
            assert!(said.err.contains(part), "{part}: {said:?}");
        }
    };
    // Deaf to TERM, and so killed.
    let deaf = "echo about to listen; trap '' TERM; while :; do sleep 1; done";
    fail(
        &["late", "--ready-tcp", "7000", "--ready-timeout-seconds", "5", "--", deaf],
        &["was not ready within 5 s", "refused", "about to listen"],
    );
    fail(
        &["dead", "--ready-file", "never", "--", "echo no such luck >&2; exit 9"],
        &["exit code 9 before it was ready", "no such luck"],
    );
    fail(
        &[
            "cmd",
            "--ready-command",
            "echo not yet >&2; exit 4",
            "--ready-timeout-seconds",
            "1",
            "--",
            "sleep 99",
        ],
        &["exits with 4: not yet"],
    );
    fail(&["none", "--", "/nonexistent", "x"], &["/nonexistent"]);
    fail(&["cwd", "--cwd", "/nonexistent", "--", "true"], &["/nonexistent"]);
    fail(&["../up", "--", "true"], &["cannot be the name of a service"]);
    fail(&["far", "--ready-tcp", "example.org:80", "--", "true"], &["loopback"]);
    fail(&["pub", "--publish", "80:80", "--", "true"], &["--publish is not part of this version"]);
    let all: Vec<_> = names(&room);
    let failed = |name: &str| (name.to_owned(), "failed".to_owned());
    assert_eq!(all, [failed("late"), failed("dead"), failed("cmd")]);
    assert_eq!(room.json(&["service", "status", "w", "late"])["exit_code"], 137);
    assert_eq!(room.sh("w", "grep -l sleep /proc/[0-9]*/comm | wc -l"), "0\n");

    // Who waits for it goes, and it goes too.
    let waiting = room.world.start(&[
        "workspace",
        "service",
        "start",
        "w",
        "slow",
        "--ready-file",
        "never",
        "--",
        "sleep 99",
    ]);
    eventually("it runs", || names(&room).contains(&("slow".into(), "running".into())));
    signal(waiting.id(), "-INT");
    assert_eq!(finish(waiting).code, Some(130));
    eventually("it is over", || names(&room).contains(&failed("slow")));
    room.ok(&["delete", "w"]);
    room.check_empty(&[]);
}

#[test]
fn logs_are_the_end_or_all_and_hold_up_nobody() {
    let room = Room::new();
    room.create("w");
    // Half of it as fast as it goes, and no end to it.
    start(&room, &["log", "--", "seq 1 500; echo oops >&2; touch wrote; sleep 1000"]);
    eventually("it wrote", || room.pyro(&["exec", "w", "--", "test -e wrote"]).code == Some(0));
    let said = room.ok(&["service", "logs", "w", "log"]);
    let expected: String = (301..=500).map(|n| format!("{n}\n")).collect();
    assert_eq!(said.stdout(), expected);
    assert!(said.err.starts_with("oops\n") && said.err.contains("there is more"), "{said:?}");
    let logs = room.json(&["service", "logs", "w", "log", "--tail-lines", "2"]);
    assert_eq!((&logs["stdout"], &logs["tail_lines"]), (&"499\n500\n".into(), &2.into()));
    let logs = room.json(&["service", "logs", "w", "log", "--all"]);
    assert!(logs["stdout"].as_str().unwrap().starts_with("1\n2\n") && logs["truncated"] == false, "{logs}");
    // More than is kept.
    start(&room, &["much", "--", "yes 0123456789abcdef | head -c 30000000"]);
    eventually("it ends", || room.json(&["service", "status", "w", "much"])["state"] == "exited");
    let logs = room.json(&["service", "logs", "w", "much", "--all"]);
    let text = logs["stdout"].as_str().unwrap();
    assert!(logs["truncated"] == true && text.len() >= 16 << 20 && text.len() < 18 << 20, "{}", text.len());
    assert!(text.starts_with("0123456789abcdef\n"));
    room.ok(&["delete", "w"]);
    room.check_empty(&[]);
}

#[test]
fn secrets_reach_shells_and_services_and_are_shown_nowhere() {
    let room = Room::new();
    let value = "pyro-planted-8c1d";
    let given = format!("TOKEN={value}");
    room.ok(&["create", "debian:12-base", "--mem-mib", "256", "--name", "w", "--secret", &given]);
    // Byte by byte, on both streams, and in a command line that says it itself.
    let line = format!(
        "printf %s $KEY | wc -c; for c in $(echo $KEY | sed 's/./& /g'); do printf %s $c; done; echo $KEY >&2; : {value}; touch said; sleep 99"
    );
    let service = start(&room, &["s", "--secret-env", "TOKEN=KEY", "--ready-file", "said", "--", &line]);
    assert!(service["command"].as_str().unwrap().contains(": [REDACTED];"), "{service}");
    room.ok(&["service", "stop", "w", "s"]);
    let logs = room.json(&["service", "logs", "w", "s"]);
    assert_eq!((&logs["stdout"], &logs["stderr"]), (&"17\n[REDACTED]".into(), &"[REDACTED]\n".into()));
    let said = room.pyro(&[
        "service",
        "start",
        "w",
        "f",
        "--ready-tcp",
        "1",
        "--",
        &format!("echo {value}; exit 1"),
    ]);
    assert!(said.err.contains("[REDACTED]") && !said.err.contains(value), "{said:?}");
    let shell = room.ok(&["shell", "open", "w", "--id-only", "--secret-env", "TOKEN"]).stdout();
    let shell = shell.trim();
    room.ok(&["shell", "write", "w", shell, "--input", "echo ${#TOKEN}-$TOKEN"]);
    eventually("it says it", || {
        room.ok(&["shell", "read", "w", shell, "--plain"]).stdout().contains("17-[REDACTED]\n")
    });
    let said = room.pyro(&["shell", "open", "w", "--secret-env", "OTHER"]);
    assert!(said.code == Some(1) && said.err.contains("TOKEN"), "{said:?}");
    let home = room.dir().join(room.json(&["status", "w"])["workspace_id"].as_str().unwrap());
    room.ok(&["stop", "w"]);
    let args = ["-rlF", "--exclude-dir=secrets", value, home.to_str().unwrap()];
    let found = std::process::Command::new("grep").args(args).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    room.ok(&["delete", "w"]);
    room.check_empty(&[]);
}
