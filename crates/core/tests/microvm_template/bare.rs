//! Guests restored with a disk of their own: whatever that disk holds is what they see, and nothing of any other.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use pyro_core::backend::Preference;
use pyro_core::start::{StartDisk, StartMethod, Started};

use crate::backends::on_each_backend;
use crate::support::{BASE, Host, SHAPE, shell, stop};

on_each_backend! {
    async
    no_disk_shows_anything_of_another
    a_disk_that_went_on_is_seen_as_it_is_now
    a_disk_that_holds_no_file_system_is_an_error_and_spoils_nothing
}

fn again(disk: &File) -> StartDisk {
    StartDisk::Existing(disk.try_clone().unwrap())
}

async fn started(host: &Host, disk: &File) -> Started {
    host.start(SHAPE, again(disk)).await.0
}

async fn restored(host: &Host, disk: &File) -> Started {
    let (guest, remarks) = host.start(SHAPE, again(disk)).await;
    assert_eq!((guest.how, remarks.as_slice()), (StartMethod::Restored, &[][..]));
    guest
}

/// Everything on the disk as the guest sees it: names, sizes, inode numbers, content.
const SURVEY: &str = "cd /workspace && find . | sort | while read -r f; do stat -c '%n %i %s %F' \"$f\"; \
                      if [ -f \"$f\" ]; then sha256sum < \"$f\"; fi; done; cat /etc/who 2>/dev/null; \
                      ls /opt /usr/local/bin";

/// The same files by the same steps, so that they have the same inodes and blocks, with other content.
fn fill(word: &str) -> String {
    format!(
        "cd /workspace && mkdir -p a/b && for i in 1 2 3 4 5 6 7 8; do yes {word} | head -c 100000 > a/b/$i; done; \
         echo {word} > a/{word}; ln -s a/{word} link; echo {word} > /etc/who; echo {word} > /opt/{word}; \
         rm -f /usr/local/bin/{word}; sync"
    )
}

fn is_clean(disk: &File) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), disk.as_raw_fd());
    // The guest was killed, not unmounted: its journal is replayed first, on a copy of our own.
    let copy = tempfile::NamedTempFile::new().unwrap();
    pyro_formats::hostfs::copy_sparse(&File::open(path).unwrap(), copy.as_file()).unwrap();
    let replay = Command::new("e2fsck").args(["-p"]).arg(copy.path()).output().unwrap();
    assert!(replay.status.code().is_some_and(|code| code <= 1), "{replay:?}");
    let check = Command::new("e2fsck").args(["-fn"]).arg(copy.path()).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}

async fn no_disk_shows_anything_of_another(backend: Preference) {
    let host = Host::on(backend, BASE).await;
    let disks = [host.new_disk(), host.new_disk(), host.new_disk()];
    let words = ["apple", "melon"];
    for (at, (word, disk)) in words.iter().zip(&disks).enumerate() {
        let guest = if at == 0 { started(&host, disk).await } else { restored(&host, disk).await };
        shell(&guest, &fill(word)).await;
        stop(guest).await;
        is_clean(disk);
    }
    let mut surveys = Vec::new();
    for (word, disk) in words.iter().zip(&disks) {
        let guest = restored(&host, disk).await;
        let survey = shell(&guest, SURVEY).await;
        assert!(survey.contains(word) && shell(&guest, "cat /workspace/link").await.trim() == *word);
        for other in words.iter().filter(|other| *other != word) {
            assert!(!survey.contains(other), "{survey}");
            let found = shell(&guest, &format!("grep -rl {other} /workspace /etc/who /opt || true")).await;
            assert_eq!(found, "", "{word}'s disk shows what is on {other}'s");
        }
        stop(guest).await;
        surveys.push(survey);
    }
    // The test is about something only if the two do share inodes.
    let inodes = |survey: &str| -> Vec<String> {
        let lines = survey.lines().filter(|line| line.starts_with("./a/b/"));
        lines.map(|line| line.split(' ').nth(1).unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(inodes(&surveys[0]), inodes(&surveys[1]));
    let guest = restored(&host, &disks[2]).await;
    assert_eq!(
        shell(&guest, "ls -A /workspace /opt; cat /etc/who 2>&1 | grep -c No").await,
        "/opt:\n\n/workspace:\n1\n"
    );
    stop(guest).await;
}

/// The template is older than what is on the disk by then, and has been restored with that disk before.
async fn a_disk_that_went_on_is_seen_as_it_is_now(backend: Preference) {
    let host = Host::on(backend, BASE).await;
    let disk = host.new_disk();
    let guest = started(&host, &disk).await;
    stop(guest).await;
    for round in 1..=3 {
        let guest = restored(&host, &disk).await;
        let before =
            shell(&guest, "cat /workspace/log /etc/log 2>/dev/null | tr '\\n' ' '; ls /workspace").await;
        let lines: String = (1..round).map(|n| format!("{n} ")).collect();
        let names: String = (1..round).map(|n| format!("only-{n}\n")).filter(|_| round > 1).collect();
        let last = names.lines().last().map(|name| format!("{name}\n")).unwrap_or_default();
        let log = if round > 1 { "log\n" } else { "" };
        assert_eq!(before, format!("{lines}{lines}{log}{last}"));
        shell(
            &guest,
            &format!(
                "echo {round} >> /workspace/log; echo {round} >> /etc/log; rm -f /workspace/only-*; \
                 echo x > /workspace/only-{round}; sync"
            ),
        )
        .await;
        stop(guest).await;
        is_clean(&disk);
    }
}

async fn a_disk_that_holds_no_file_system_is_an_error_and_spoils_nothing(backend: Preference) {
    let host = Host::on(backend, BASE).await;
    let good = host.new_disk();
    stop(started(&host, &good).await).await;
    let mut junk = tempfile::tempfile().unwrap();
    junk.write_all(&[0xa5; 1 << 20]).unwrap();
    junk.set_len(pyro_core::environment::DISK_BYTES).unwrap();
    let (failed, remarks) = host.try_start(SHAPE, again(&junk), None).await;
    let error = failed.err().unwrap();
    assert!(pyro_core::cause::chain(&error).contains("root file system"), "{error:?}");
    assert_eq!(remarks, []);
    stop(restored(&host, &good).await).await;
}
