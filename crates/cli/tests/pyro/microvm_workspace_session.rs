//! The session with a guest whose root breaks it: made again, or said to be lost.

use crate::room::Room;
use crate::support::{eventually, finish};

/// Program for the guest that takes PID 1's descriptor of the port to the host and writes to it what is no record:
/// 64 KiB of it, or again and again.
fn garbage(forever: bool) -> String {
    let rest = if forever {
        "while (1) { syswrite($port, $bytes) or select(undef, undef, undef, 0.01) }"
    } else {
        ""
    };
    format!(
        r#"perl -e '
            my $pid1 = syscall(434, 1, 0);
            for my $fd (map {{ m,([0-9]+)$, ? $1 : () }} glob("/proc/1/fd/*")) {{
                next unless (readlink("/proc/1/fd/$fd") // "") =~ /vport/;
                my $ours = syscall(438, $pid1, $fd + 0, 0);
                open(my $port, ">&=", $ours) or die "no port: $!";
                my $bytes = "x" x 65536;
                syswrite($port, $bytes) or die "not written: $!";
                {rest}
            }}'"#
    )
}

#[test]
fn a_session_that_the_guest_broke_is_made_again() {
    let room = Room::new();
    room.create("broken");
    let shell = room.json(&["shell", "open", "broken"])["shell_id"].as_str().unwrap().to_owned();
    let keeper = room.keeper("broken");
    for round in 0..3 {
        // The command's own session goes with it.
        room.pyro(&["exec", "broken", "--", &garbage(false)]);
        assert_eq!(room.sh("broken", "echo again"), "again\n", "round {round}");
    }
    assert_eq!((room.state("broken").as_str(), room.keeper("broken")), ("started", keeper));
    // Shells are followed on.
    room.ok(&["shell", "write", "broken", &shell, "--input", "echo st''ill"]);
    eventually("the shell is heard", || {
        room.ok(&["shell", "read", "broken", &shell, "--plain"]).stdout().contains("still")
    });
    room.ok(&["file", "write", "broken", "f", "--text", "text"]);
    room.ok(&["snapshot", "create", "broken", "after"]);
    assert_eq!(room.sh("broken", "cat f"), "text");
    room.ok(&["delete", "broken"]);
    room.check_empty(&[]);
}

#[test]
fn a_session_that_cannot_be_made_is_said_to_be_lost() {
    let room = Room::new();
    room.create("lost");
    room.sh("lost", "echo kept > f; sync");
    let noise = format!("setsid nohup {} >/dev/null 2>&1 &", garbage(true));
    room.pyro(&["exec", "lost", "--", &noise]);
    eventually("it is said", || room.state("lost") == "unresponsive");
    let status = room.json(&["status", "lost"]);
    assert!(status["metadata"]["guest"].as_str().unwrap().contains("session"), "{status}");
    eventually("a call says so, and what to do", || {
        let said = room.pyro(&["exec", "lost", "--", "true"]);
        said.code == Some(1)
            && said.err.contains("does not answer")
            && said.err.contains("pyro workspace stop")
    });
    room.ok(&["stop", "lost"]);
    room.ok(&["start", "lost"]);
    assert_eq!((room.state("lost").as_str(), room.sh("lost", "cat f").as_str()), ("started", "kept\n"));
    room.ok(&["delete", "lost"]);
    room.check_empty(&[]);
}

/// Root in the guest freezes the agent: a command that gets no answer was killed by nobody.
#[test]
fn what_a_guest_does_not_say_is_said_to_be_unknown() {
    let room = Room::new();
    room.create("frozen");
    let freeze = "mkdir /sys/fs/cgroup/ice && echo 1 > /sys/fs/cgroup/ice/cgroup.procs && \
                  echo 1 > /sys/fs/cgroup/ice/cgroup.freeze";
    let frozen = room.world.start(&["workspace", "exec", "frozen", "--", freeze]);
    let said = room.pyro(&["exec", "frozen", "--timeout-seconds", "1", "--", "sleep 1000"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("is not known") && !said.err.contains("were killed"), "{said:?}");
    assert!(said.err.contains("pyro workspace stop"), "{said:?}");
    eventually("it is shown", || room.state("frozen") == "unresponsive");
    room.ok(&["stop", "frozen"]);
    finish(frozen);
    room.ok(&["start", "frozen"]);
    assert_eq!(room.sh("frozen", "echo thawed"), "thawed\n");
    room.ok(&["delete", "frozen"]);
    room.check_empty(&[]);
}

#[test]
fn a_command_that_moves_to_another_cgroup_ends_with_its_time() {
    let room = Room::new();
    room.create("moves");
    let flee = "mkdir /sys/fs/cgroup/away; (sleep 4321 &); echo $$ > /sys/fs/cgroup/away/cgroup.procs; \
                sleep 4321 & (sleep 4321 &); sleep 4321";
    let said = room.pyro(&["exec", "moves", "--timeout-seconds", "3", "--", flee]);
    assert_eq!(said.code, Some(124), "{said:?}");
    assert_eq!(room.sh("moves", "grep -lx sleep /proc/[0-9]*/comm; true"), "");
    room.ok(&["delete", "moves"]);
}

#[test]
fn a_guest_has_the_limits_of_a_development_machine() {
    let room = Room::new();
    room.create("limits");
    let limits = "ulimit -Sn; ulimit -Hn; cd /proc/sys; cat fs/inotify/max_user_watches fs/inotify/max_user_instances \
                  vm/max_map_count";
    assert_eq!(room.sh("limits", limits), "65536\n1048576\n1048576\n8192\n1048576\n");
    room.ok(&["delete", "limits"]);
}
