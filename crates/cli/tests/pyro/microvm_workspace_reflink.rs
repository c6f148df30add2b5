//! Where a file system can share what copies have in common, copies of disks share it: on an XFS that is made for this,
//! which takes root and a loop device.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::room::Room;

/// Makes the file a file system, mounts it, and holds it until the input ends.
const HOLD: &str =
    "mkfs.xfs -q -m reflink=1 \"$1\" && mount -o loop \"$1\" \"$2\" && echo mounted && read line";
const MIB: u64 = 1 << 20;
/// What the workspace writes, and what copies of that may take together.
const WRITTEN: u64 = 100 * MIB;
const LITTLE: u64 = 20 * MIB;

/// A room whose workspaces are on an XFS, mounted in a mount namespace that goes with its last process.
struct Reflinked {
    room: Room,
    holder: Child,
    dir: PathBuf,
}

impl Drop for Reflinked {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

impl Reflinked {
    fn new() -> Self {
        let mut room = Room::new();
        let (image, dir) = (room.world.home.path().join("xfs"), room.world.home.path().join("mounted"));
        std::fs::File::create_new(&image).unwrap().set_len(4 << 30).unwrap();
        std::fs::create_dir(&dir).unwrap();
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", HOLD, "sh"])
            .args([&image, &dir]);
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = unshare.spawn().unwrap();
        let (mut said, mut why) = (String::new(), String::new());
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if said != "mounted\n" {
            holder.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            panic!(
                "no XFS can be made and mounted here, which takes root, xfsprogs and a loop device: {why}"
            );
        }
        let namespace = format!("--mount=/proc/{}/ns/mnt", holder.id());
        room.world.enter = ["nsenter", &namespace, "--"].map(str::to_owned).into();
        room.world.set("PYRO_WORKSPACES_DIR", dir.join("workspaces"));
        Self { room, holder, dir }
    }

    /// Bytes of the file system that are in use, when what was written is on it.
    fn used(&self) -> u64 {
        let script = "sync -f \"$1\" && df --block-size=1 --output=used \"$1\" | tail -n 1";
        let mut command = Command::new("nsenter");
        command.args(&self.room.world.enter[1..]).args(["sh", "-c", script, "sh"]).arg(&self.dir);
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }
}

#[test]
fn copies_of_a_disk_share_what_they_have_in_common() {
    let world = Reflinked::new();
    let room = &world.room;
    room.create("origin");
    let blank = world.used();
    room.sh("origin", &format!("head -c {WRITTEN} /dev/urandom > big; sync"));
    let sum = room.sh("origin", "md5sum big");
    let written = world.used();
    // That this test can see what a copy takes.
    assert!(written - blank >= WRITTEN, "{blank} {written}");

    let made = room.json(&["snapshot", "create", "origin", "kept"]);
    assert!(made["snapshot"]["bytes_written"].as_u64().unwrap() >= WRITTEN, "{made}");
    room.sh("origin", "rm big; echo another > small");
    room.ok(&["reset", "origin", "--snapshot", "kept"]);
    room.ok(&["snapshot", "create", "origin", "again"]);
    let fork = room.ok(&["fork", "origin", "--snapshot", "kept", "--id-only"]).stdout().trim().to_owned();
    room.ok(&["stop", "origin"]);
    room.ok(&["snapshot", "create", "origin", "stopped"]);
    let copied = world.used();
    assert!(copied < written + LITTLE, "six copies took {} MiB", (copied - written) / MIB);

    // And nobody writes into what others have too.
    room.sh(&fork, "head -c 1000 /dev/zero 1<> big; sync");
    room.ok(&["start", "origin"]);
    for snapshot in [None, Some("kept"), Some("again"), Some("stopped")] {
        if let Some(name) = snapshot {
            room.ok(&["reset", "origin", "--snapshot", name]);
        }
        assert_eq!(room.sh("origin", "md5sum big; ls"), format!("{sum}big\n"), "{snapshot:?}");
    }
    assert_ne!(room.sh(&fork, "md5sum big"), sum);
    room.ok(&["delete", "origin"]);
    room.ok(&["delete", &fork]);
}
