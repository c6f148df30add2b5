//! Every way out of the roots that is known, and the ways in.

use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use pyro_core::archive::{Limits, Sink, Source, Totals};
use pyro_core::workspace::Secret;
use rustix::fs::{RenameFlags, renameat_with};

use super::*;

/// `root` with a tree of one file, and `away`, which has two, beside it.
struct Place {
    dir: tempfile::TempDir,
    root: PathBuf,
    away: PathBuf,
    roots: Roots,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().canonicalize().unwrap();
    let (root, away) = (real.join("root"), real.join("away"));
    fs::create_dir_all(root.join("tree")).unwrap();
    fs::create_dir(&away).unwrap();
    fs::write(root.join("tree/mine"), "mine").unwrap();
    fs::write(away.join("mine"), "theirs").unwrap();
    fs::write(away.join("theirs"), "theirs").unwrap();
    let roots = Roots::new(vec![root.clone()], Path::new("/"), &[]).unwrap();
    Place { dir, root, away, roots }
}

impl Place {
    fn link(&self, to: impl AsRef<Path>, name: &str) {
        symlink(to, self.root.join(name)).unwrap();
    }

    fn outside(&self, given: &str) {
        let both = [("source", self.roots.source(given)), ("target", self.roots.target(given))];
        for (what, got) in both {
            match got {
                Err(refusal @ Refusal::Outside { .. }) => {
                    assert!(refusal.hint().unwrap().contains("--host-root DIR"));
                    assert!(refusal.to_string().contains(&self.root.display().to_string()), "{refusal}");
                }
                Err(Refusal::Nameless { .. }) if what == "target" && given == ".." => {}
                other => panic!("{what} {given}: {other:?}"),
            }
        }
    }
}

fn entries(path: &HostPath) -> u64 {
    Source::open(path, Limits::default()).unwrap().count().unwrap().unwrap().entries
}

fn go_on(_: Totals) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Makes a directory of what `tree` has at `target`.
fn make(tree: &Path, target: &HostPath) {
    let mut stream = Vec::new();
    Source::open(tree, Limits::default()).unwrap().write_to(&mut stream, &mut go_on).unwrap();
    let sink = Sink::new(target, None, Limits::default()).unwrap();
    sink.unpack(&mut &stream[..], &mut go_on).unwrap();
}

#[test]
fn what_is_in_a_root_is_used() {
    let place = place();
    let Place { root, roots, .. } = &place;
    assert_eq!(roots.source("tree").unwrap().shown(), root.join("tree"));
    assert_eq!(
        roots.source(root.join("tree/mine").to_str().unwrap()).unwrap().shown(),
        root.join("tree/mine")
    );
    assert_eq!(roots.source("tree/../tree/.").unwrap().shown(), root.join("tree"));
    assert_eq!(roots.source(".").unwrap().shown(), root);
    place.link("tree", "near");
    place.link(root.join("tree"), "absolute");
    for link in ["near", "absolute"] {
        let held = roots.source(link).unwrap();
        assert_eq!((held.shown(), entries(&held)), (root.join("tree").as_path(), 1));
        assert_eq!(roots.target(&format!("{link}/new")).unwrap().shown(), root.join("tree/new"));
    }
    let held = roots.source("tree/mine").unwrap();
    fs::rename(root.join("tree/mine"), root.join("tree/other")).unwrap();
    assert!(Secret::from_file("S", &held).is_ok(), "what is held was lost by a rename");
}

#[test]
fn what_leads_out_is_refused() {
    let place = place();
    place.link(&place.away, "absolute");
    place.link("../away", "relative");
    place.link("absolute", "twice");
    place.link("/proc/self/root", "magic");
    let away = place.away.to_str().unwrap();
    for given in [
        "..",
        "../away/mine",
        "tree/../../away/mine",
        "absolute/mine",
        "relative/mine",
        "twice/mine",
        &format!("magic{away}/mine"),
        &format!("{away}/mine"),
        "/etc/passwd",
        "/proc/self/root/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        // As if it began with the name of the root.
        &format!("{}-away/mine", place.root.display()),
        // Not even whether it is there.
        "../away/none",
        "../none/none",
        "none/../../away/none",
        "/proc/self/root/none",
    ] {
        place.outside(given);
    }
    // What stands for another file: an existing target is not followed, a link to a file is.
    place.link(place.away.join("mine"), "file");
    assert!(matches!(place.roots.source("file"), Err(Refusal::Outside { .. })));
    let target = place.roots.target("file").unwrap();
    assert!(Sink::new(&target, None, Limits::default()).is_err(), "a link was taken for a place");
}

#[test]
fn a_process_directory_opens_no_other_way() {
    let place = place();
    let open = fs::File::open(&place.away).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&open);
    for given in [
        format!("/proc/self/fd/{number}"),
        format!("/proc/{}/fd/{number}/mine", std::process::id()),
        "/proc/self/cwd".into(),
        "/proc/self/exe".into(),
        "/proc/self/fd/0".into(),
    ] {
        assert!(place.roots.source(&given).is_err(), "{given}");
    }
    // By way of /proc into a root is into a root, under its own name.
    let through = format!("/proc/self/root{}", place.root.join("tree").display());
    assert_eq!(place.roots.source(&through).unwrap().shown(), place.root.join("tree"));
}

#[test]
fn only_files_and_directories_are_opened() {
    let place = place();
    let fifo = place.root.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(place.root.join("socket")).unwrap();
    for given in ["fifo", "socket"] {
        assert!(matches!(place.roots.source(given), Err(Refusal::Kind { .. })), "{given}");
    }
    let devices = Roots::new(vec!["/dev".into()], Path::new("/"), &[]).unwrap();
    for given in ["null", "zero", "tty"] {
        assert!(matches!(devices.source(given), Err(Refusal::Kind { .. })), "{given}");
    }
}

#[test]
fn what_is_not_there_is_said_and_can_be_made() {
    let place = place();
    for given in ["none", "tree/none", "tree/mine/none", "none/none", ""] {
        let got = place.roots.source(given);
        assert!(given.is_empty() || matches!(got, Err(Refusal::Unusable { .. })), "{given}: {got:?}");
    }
    for given in ["none/new", "tree/mine/new", "nul\0/new"] {
        assert!(matches!(place.roots.target(given), Err(Refusal::Unusable { .. })), "{given}");
    }
    assert!(matches!(place.roots.target("tree/.."), Err(Refusal::Nameless { .. })));
    assert!(matches!(place.roots.target("nul\0"), Ok(_) | Err(Refusal::Unusable { .. })));
    let target = place.roots.target("new").unwrap();
    // Its directory is moved away meanwhile: it is made where that is now.
    fs::rename(&place.root, place.dir.path().join("moved")).unwrap();
    make(&place.away, &target);
    assert!(place.dir.path().join("moved/new/theirs").exists());
    assert_eq!(target.shown(), place.root.join("new"));
}

/// What comes of `each` try while `tree` is now a directory and now a link that leads out: tried until it was used, was
/// refused, and was caught in between.
fn swapped(place: &Place, mut each: impl FnMut(usize) -> Result<(), Refusal>) {
    place.link(&place.away, "link");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, other) = (place.root.join("tree"), place.root.join("link"));
            while !over.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let _over = Over(&over);
        let (mut used, mut outside, mut changed) = (0, 0, 0);
        for number in 0.. {
            match each(number) {
                Ok(()) => used += 1,
                Err(Refusal::Changed { .. }) => changed += 1,
                Err(Refusal::Outside { .. } | Refusal::Unusable { .. }) => outside += 1,
                Err(other) => panic!("{other:?}"),
            }
            if used.min(outside).min(changed) > 5 {
                break;
            }
        }
    });
}

#[test]
fn a_link_swapped_in_is_not_read_from() {
    let place = place();
    swapped(&place, |_| {
        let held = place.roots.source("tree")?;
        assert_eq!(entries(&held), 1, "another directory was opened");
        Ok(())
    });
}

#[test]
fn a_link_swapped_in_is_not_written_through() {
    let place = place();
    let empty = tempfile::tempdir().unwrap();
    fs::write(empty.path().join("x"), "x").unwrap();
    swapped(&place, |number| {
        let target = place.roots.target(&format!("tree/made-{number}"))?;
        make(empty.path(), &target);
        assert_eq!(fs::read_dir(&place.away).unwrap().count(), 2, "something was made outside");
        Ok(())
    });
}

/// Ends the other thread also when an assertion fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_root_may_be_given_through_a_link() {
    let place = place();
    let link = place.dir.path().join("way");
    symlink(&place.root, &link).unwrap();
    let relative = Roots::new(vec!["way".into()], place.dir.path(), &[]).unwrap();
    assert_eq!(relative.dirs.as_slice(), std::slice::from_ref(&place.root));
    // Either name of it may be said.
    for way in [&link, &place.root] {
        let held = relative.source(way.join("tree").to_str().unwrap()).unwrap();
        assert_eq!(held.shown(), place.root.join("tree"));
    }
    assert!(matches!(relative.source(place.away.to_str().unwrap()), Err(Refusal::Outside { .. })));
    let both = Roots::new(vec![link, place.root.clone(), place.away.clone()], Path::new("/"), &[]).unwrap();
    assert_eq!(both.dirs.as_slice(), [place.root.clone(), place.away.clone()]);
    assert!(both.source(place.away.join("mine").to_str().unwrap()).is_ok());
}

#[test]
fn nobody_hands_out_a_home_without_saying_so() {
    let place = place();
    let home = place.dir.path().join("home");
    symlink(&place.root, &home).unwrap();
    let other = place.dir.path().join("other");
    for (working_dir, homes) in [
        (place.root.as_path(), vec![home.clone()]),
        (&place.root, vec![other.clone(), home.clone()]),
        (place.root.parent().unwrap(), vec![home.clone(), other.clone()]),
        // A home that is not there, but would be in it.
        (&place.root, vec![place.root.join("people/ann")]),
        (Path::new("/"), vec![home.clone()]),
        (Path::new("/none"), vec![home.clone()]),
        // Whose home is not known may stand in it.
        (&place.root, vec![]),
        (&place.root.join("tree"), vec![]),
    ] {
        let roots = Roots::new(Vec::new(), working_dir, &homes).unwrap();
        assert!(roots.dirs.is_empty(), "{} {homes:?}", working_dir.display());
        for got in [roots.source("tree"), roots.target("new"), roots.source("/etc/passwd")] {
            let refusal = got.unwrap_err();
            assert!(matches!(refusal, Refusal::None { .. }), "{refusal}");
            assert!(refusal.hint().unwrap().contains("--host-root DIR"));
        }
    }
    let homes = [home.clone(), other];
    let project = Roots::new(Vec::new(), &place.root.join("tree"), &homes).unwrap();
    assert_eq!(project.dirs.as_slice(), [place.root.join("tree")]);
    // Who says it means it.
    for homes in [&homes[..], &[]] {
        let said = Roots::new(vec![home.clone()], Path::new("/"), homes).unwrap();
        assert_eq!(said.dirs.as_slice(), std::slice::from_ref(&place.root));
    }
    for bad in [place.root.join("none"), place.root.join("tree/mine")] {
        assert!(matches!(Roots::new(vec![bad], Path::new("/"), &[]), Err(Refusal::Root { .. })));
    }
}
