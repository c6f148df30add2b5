//! The safety rule: no manifest says that guests boot, run commands or reach the network while any artifact is a shim
//! or a placeholder. Here everything is tried to get around it.
#![expect(clippy::unwrap_used, reason = "a failure to set a test up is a failure of the test")]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use pyro_core::hint::Hint;
use pyro_core::runtime::{
    ArtifactKind, BootFindings, Bundle, BundleBuilder, Evidence, ProbeExec, RuntimeError,
};

const VERSION: &str = "0.1.0";

/// An ELF executable for x86-64 with one loaded segment and, in `notes`, what a note segment holds.
fn elf(size: usize, machine: u16, interpreter: bool, notes: Option<&[u8]>) -> Vec<u8> {
    let mut out = vec![0; size];
    let headers = 1 + usize::from(interpreter) + usize::from(notes.is_some());
    out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    out[16..18].copy_from_slice(&2_u16.to_le_bytes());
    out[18..20].copy_from_slice(&machine.to_le_bytes());
    out[24..32].copy_from_slice(&0x1000_1000_u64.to_le_bytes());
    out[32..40].copy_from_slice(&64_u64.to_le_bytes());
    out[54..56].copy_from_slice(&56_u16.to_le_bytes());
    out[56..58].copy_from_slice(&(headers as u16).to_le_bytes());
    let mut put = |n: usize, kind: u32, offset: u64, len: u64| {
        let at = 64 + 56 * n;
        out[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        out[at + 4..at + 8].copy_from_slice(&5_u32.to_le_bytes());
        for (i, value) in [offset, 0x1000_0000, 0x1000_0000, len, len].into_iter().enumerate() {
            out[at + 8 + i * 8..at + 16 + i * 8].copy_from_slice(&value.to_le_bytes());
        }
    };
    put(0, 1, 0, size as u64);
    let mut next = 1;
    if interpreter {
        put(next, 3, 1024, 16);
        next += 1;
    }
    if let Some(notes) = notes {
        put(next, 4, 2048, notes.len() as u64);
        out[2048..2048 + notes.len()].copy_from_slice(notes);
    }
    out
}

fn pvh_note() -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4_u32, 8, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(0x0100_0500_u64.to_le_bytes());
    note
}

fn kernel() -> Vec<u8> {
    elf(2 << 20, 62, false, Some(&pvh_note()))
}

fn agent() -> Vec<u8> {
    elf(128 << 10, 62, false, None)
}

/// A newc archive of one file and its trailer.
fn cpio(name: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, mode, content) in [(name, mode, content), ("TRAILER!!!", 0, &[][..])] {
        write!(out, "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}", 1, 0, 0, 1, 0).unwrap();
        write!(
            out,
            "{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        )
        .unwrap();
        out.extend(name.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(content);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(bench.at("in")).unwrap();
        bench.put("kernel", &kernel());
        bench.put("initramfs", &cpio("init", 0o100_755, &agent()));
        bench.put("agent", &agent());
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.at("in").join(name), content).unwrap();
    }

    fn builder(&self, kinds: [ArtifactKind; 3]) -> BundleBuilder {
        let from = |name: &str| self.at("in").join(name);
        BundleBuilder::new("1")
            .component("linux", "6.1")
            .artifact("kernel", from("kernel"), "vmlinux", "6.1", kinds[0])
            .artifact("initramfs", from("initramfs"), "initramfs.cpio", VERSION, kinds[1])
            .artifact("agent", from("agent"), "pyro-agent", VERSION, kinds[2])
    }

    fn write(&self) -> Result<Bundle, RuntimeError> {
        self.builder([ArtifactKind::Real; 3]).write(&self.at("runtime"), &self.at("cache"))
    }

    fn open(&self) -> Result<Bundle, RuntimeError> {
        Bundle::open(&self.at("runtime"), &self.at("cache"))
    }

    fn manifest(&self) -> PathBuf {
        self.at("runtime/manifest.json")
    }
}

fn booted() -> BootFindings {
    BootFindings {
        backend: "qemu".into(),
        accelerator: "tcg".into(),
        agent_version: VERSION.into(),
        exec: Some(ProbeExec { exit_code: 0, stdout: format!("pyro-agent {VERSION}\n") }),
    }
}

fn evidence(bundle: &Bundle) -> Evidence {
    bundle.measurement().unwrap().finish(booted()).unwrap()
}

/// No manifest below `dir`, hidden or not, claims anything.
fn nothing_is_claimed(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            nothing_is_claimed(&path);
        } else if path.extension().is_some_and(|e| e == "json") {
            let value: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            for claim in ["vm_boot", "guest_exec", "guest_network"] {
                assert_eq!(value["capabilities"][claim], false, "{} claims {claim}", path.display());
            }
        }
    }
}

#[test]
fn what_was_measured_is_what_is_claimed() {
    let bench = Bench::new();
    let bundle = bench.write().unwrap();
    nothing_is_claimed(bench.dir.path());
    assert!(bundle.manifest().capabilities.reason.is_some());
    let before = bundle.digest();

    let proof = evidence(&bundle);
    let bundle = bundle.raise(proof).unwrap();
    let capabilities = &bundle.manifest().capabilities;
    assert!(capabilities.vm_boot && capabilities.guest_exec && !capabilities.guest_network);
    assert_ne!(bundle.digest(), before);
    bundle.verify_all().unwrap();
    let again = bench.open().unwrap();
    assert!(again.manifest().capabilities.guest_exec);
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut again.open_artifact("kernel").unwrap(), &mut text).unwrap();
    assert!(text == kernel());

    // Built again, it has to be measured again.
    let bundle = bench.write().unwrap();
    assert!(!bundle.manifest().capabilities.vm_boot);
    nothing_is_claimed(bench.dir.path());
    // A boot without a command proves a boot and no more.
    let proof = bundle.measurement().unwrap().finish(BootFindings { exec: None, ..booted() }).unwrap();
    let bundle = bundle.raise(proof).unwrap();
    assert!(bundle.manifest().capabilities.vm_boot && !bundle.manifest().capabilities.guest_exec);
    let leftovers: Vec<_> = fs::read_dir(bench.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(leftovers.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{leftovers:?}");
}

#[test]
fn a_declared_shim_or_placeholder_can_claim_nothing() {
    let bench = Bench::new();
    for kind in [ArtifactKind::Shim, ArtifactKind::Placeholder] {
        for place in 0..3 {
            let mut kinds = [ArtifactKind::Real; 3];
            kinds[place] = kind;
            let bundle = bench.builder(kinds).write(&bench.at("runtime"), &bench.at("cache")).unwrap();
            assert!(matches!(bundle.measurement(), Err(RuntimeError::Evidence(_))));
            let name = ["kernel", "initramfs", "agent"][place];
            assert!(matches!(bundle.open_artifact(name), Err(RuntimeError::NotReal { .. })));
            nothing_is_claimed(bench.dir.path());

            // Evidence of the very same bytes, taken when they were declared real.
            let other =
                bench.builder([ArtifactKind::Real; 3]).write(&bench.at("other"), &bench.at("cache")).unwrap();
            let proof = evidence(&other);
            assert!(bundle.raise(proof).is_err());
            nothing_is_claimed(bench.dir.path());
        }
    }
}

#[test]
fn what_is_no_real_artifact_cannot_be_declared_one() {
    let script = b"#!/bin/sh\nexit 0\n".repeat(10_000);
    let mut short_note = pvh_note();
    short_note[8] = 17;
    let truncated = &kernel()[..1 << 20];
    let dynamic = elf(128 << 10, 62, true, None);
    let foreign = elf(128 << 10, 183, false, None);
    let init = |content: &[u8]| cpio("init", 0o100_755, content);
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("kernel", "empty", vec![]),
        ("kernel", "text", b"placeholder\n".to_vec()),
        ("kernel", "zeros", vec![0; 2 << 20]),
        ("kernel", "without PVH", elf(2 << 20, 62, false, None)),
        ("kernel", "with another note", elf(2 << 20, 62, false, Some(&short_note))),
        ("kernel", "too small", elf(64 << 10, 62, false, Some(&pvh_note()))),
        ("kernel", "of another machine", elf(2 << 20, 183, false, Some(&pvh_note()))),
        ("kernel", "cut short", truncated.to_vec()),
        ("initramfs", "empty", vec![]),
        ("initramfs", "text", b"placeholder\n".to_vec()),
        ("initramfs", "script", init(&script)),
        ("initramfs", "dynamic", init(&dynamic)),
        ("initramfs", "foreign", init(&foreign)),
        ("initramfs", "tiny", init(&elf(4096, 62, false, None))),
        ("initramfs", "no init", cpio("linuxrc", 0o100_755, &agent())),
        ("initramfs", "link", cpio("init", 0o120_777, b"bin/busybox")),
        ("initramfs", "not executable", cpio("init", 0o100_644, &agent())),
        ("initramfs", "another program", init(&elf(256 << 10, 62, false, None))),
        ("initramfs", "cut short", init(&agent())[..100 << 10].to_vec()),
        ("agent", "empty", vec![]),
        ("agent", "script", script.clone()),
        ("agent", "dynamic", dynamic.clone()),
        ("agent", "another program", elf(256 << 10, 62, false, None)),
    ];
    for (name, what, content) in cases {
        let bench = Bench::new();
        bench.put(name, &content);
        let error = bench.write().expect_err(&format!("{name}: {what}"));
        assert!(matches!(error, RuntimeError::NotReal { .. }), "{name}: {what}: {error}");
        assert_eq!(error.hint(), Hint::MakeRuntime);
        assert!(!bench.at("runtime").exists(), "{name}: {what}");
    }
    // A link in place of a file; a name that leads elsewhere; an artifact nobody knows.
    let bench = Bench::new();
    fs::rename(bench.at("in/kernel"), bench.at("kernel")).unwrap();
    symlink(bench.at("kernel"), bench.at("in/kernel")).unwrap();
    assert!(matches!(bench.write(), Err(RuntimeError::NotReal { .. })));
    let bench = Bench::new();
    for path in ["../vmlinux", "/vmlinux", "a/b", "manifest.json", ".hidden", ""] {
        let builder = bench.builder([ArtifactKind::Real; 3]);
        let builder = builder.artifact("kernel", bench.at("in/kernel"), path, "6.1", ArtifactKind::Real);
        assert!(builder.write(&bench.at("runtime"), &bench.at("cache")).is_err(), "{path:?}");
    }
    let builder = bench.builder([ArtifactKind::Real; 3]);
    let builder = builder.artifact("helper", bench.at("in/agent"), "helper", "1", ArtifactKind::Real);
    assert!(builder.write(&bench.at("runtime"), &bench.at("cache")).is_err());
    // A script is no VMM either.
    fs::write(bench.at("in/script"), &script).unwrap();
    for name in ["firecracker", "jailer"] {
        let builder = bench.builder([ArtifactKind::Real; 3]);
        let builder = builder.artifact(name, bench.at("in/script"), name, "1", ArtifactKind::Real);
        let error = builder.write(&bench.at("runtime"), &bench.at("cache")).unwrap_err();
        assert!(matches!(error, RuntimeError::NotReal { .. }), "{name}: {error}");
    }
    nothing_is_claimed(bench.dir.path());
}

#[test]
fn the_floor_is_an_archive_with_a_static_init() {
    let with_floor = |content: &[u8]| {
        let bench = Bench::new();
        bench.put("floor", content);
        let builder = bench.builder([ArtifactKind::Real; 3]);
        let builder = builder.artifact("floor", bench.at("in/floor"), "floor.cpio", "1", ArtifactKind::Real);
        let written = builder.write(&bench.at("runtime"), &bench.at("cache"));
        written.map(|bundle| {
            bundle.open_artifact("floor").unwrap();
            let proof = evidence(&bundle);
            bundle.raise(proof).unwrap().manifest().capabilities.vm_boot
        })
    };
    // It is another program than the agent, and need not be it.
    assert!(with_floor(&cpio("init", 0o100_755, &elf(256 << 10, 62, false, None))).unwrap());
    for content in [
        b"placeholder\n".to_vec(),
        cpio("init", 0o100_755, &elf(256 << 10, 62, true, None)),
        cpio("linuxrc", 0o100_755, &agent()),
    ] {
        assert!(matches!(with_floor(&content), Err(RuntimeError::NotReal { .. })));
    }
}

#[test]
fn evidence_is_good_for_its_own_artifacts_only() {
    let bench = Bench::new();
    let proof = evidence(&bench.write().unwrap());
    let mut other = kernel();
    other[1 << 20] = 1;
    bench.put("kernel", &other);
    let bundle = bench.write().unwrap();
    assert!(matches!(bundle.raise(proof), Err(RuntimeError::Evidence(_))));
    nothing_is_claimed(bench.dir.path());

    // The agent that answered was another one, or its command did not do what it should.
    let bundle = bench.write().unwrap();
    let failed = |stdout: &str, exit_code| Some(ProbeExec { exit_code, stdout: stdout.into() });
    for probe in [
        BootFindings { agent_version: "0.0.9".into(), ..booted() },
        BootFindings { agent_version: String::new(), ..booted() },
        BootFindings { exec: failed("pyro-agent 0.1.0", 1), ..booted() },
        BootFindings { exec: failed("", 0), ..booted() },
        BootFindings { exec: failed("pyro-agent 0.1.00", 0), ..booted() },
    ] {
        assert!(matches!(bundle.measurement().unwrap().finish(probe), Err(RuntimeError::Evidence(_))));
    }

    // Artifacts that change while they are measured, or between the measurement and its use.
    let measurement = bundle.measurement().unwrap();
    let path = bench.at("runtime/vmlinux");
    let mut changed = other.clone();
    changed[1 << 20] = 2;
    fs::write(&path, &changed).unwrap();
    assert!(measurement.finish(booted()).is_err());
    fs::write(&path, &other).unwrap();
    let proof = evidence(&bundle);
    fs::write(&path, &changed).unwrap();
    assert!(bundle.raise(proof).is_err());
    nothing_is_claimed(bench.dir.path());
}

#[test]
fn a_manifest_edited_by_hand_is_refused() {
    let bench = Bench::new();
    bench.write().unwrap();
    let text = fs::read_to_string(bench.manifest()).unwrap();
    let edits: &[(&str, &str)] = &[
        ("\"vm_boot\": false", "\"vm_boot\": true"),
        ("\"guest_exec\": false", "\"guest_exec\": true"),
        ("\"guest_network\": false", "\"guest_network\": true"),
        ("\"kind\": \"real\"", "\"kind\": \"genuine\""),
        ("\"vmlinux\"", "\"../vmlinux\""),
        ("\"schema\": 1", "\"schema\": 2"),
        ("\"schema\"", "\"scheme\""),
        ("\"version\": \"6.1\"", "\"version\": \"6.2\""),
        ("linux-x86_64", "linux-aarch64"),
    ];
    for (from, to) in edits {
        assert!(text.contains(from), "{from}");
        fs::write(bench.manifest(), text.replace(from, to)).unwrap();
        let error = bench.open().expect_err(to);
        assert_eq!(error.hint(), Hint::MakeRuntime, "{to}");
    }
    fs::write(bench.manifest(), text.replace("\"schema\": 1", "\"schema\": 2")).unwrap();
    assert!(matches!(bench.open(), Err(RuntimeError::Schema { found: 2, .. })));
    for garbage in ["", "{", "[]", "null", &"x".repeat(300_000), &"[".repeat(200_000)] {
        fs::write(bench.manifest(), garbage).unwrap();
        assert!(matches!(bench.open(), Err(RuntimeError::Manifest { .. })));
    }
    fs::write(bench.manifest(), &text).unwrap();
    bench.open().unwrap();
}

/// Even whoever computes the checksum anew, as an editing tool of ours might by mistake, gets nothing claimed.
#[test]
fn a_resealed_manifest_is_held_to_the_rule() {
    let reseal = |bench: &Bench, edit: &dyn Fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value =
            serde_json::from_slice(&fs::read(bench.manifest()).unwrap()).unwrap();
        edit(&mut value);
        value.as_object_mut().unwrap().remove("checksum");
        let sum = sha256(&serde_json::to_vec(&value).unwrap());
        value["checksum"] = sum.into();
        fs::write(bench.manifest(), serde_json::to_vec_pretty(&value).unwrap()).unwrap();
    };
    // Never measured.
    let bench = Bench::new();
    bench.write().unwrap();
    reseal(&bench, &|value| value["bundle_version"] = "2".into());
    bench.open().expect("the reseal of this test is right");
    reseal(&bench, &|value| value["capabilities"]["vm_boot"] = true.into());
    assert!(matches!(bench.open(), Err(RuntimeError::Unearned { claim: "vm_boot", .. })));

    // Measured, then made to say more, or about something else.
    let raised = || {
        let bench = Bench::new();
        let bundle = bench.write().unwrap();
        let proof = bundle.measurement().unwrap().finish(BootFindings { exec: None, ..booted() }).unwrap();
        bundle.raise(proof).unwrap();
        bench
    };
    type Edit = Box<dyn Fn(&mut serde_json::Value)>;
    let edits: Vec<Edit> = vec![
        Box::new(|value| value["capabilities"]["guest_exec"] = true.into()),
        Box::new(|value| value["capabilities"]["guest_network"] = true.into()),
        Box::new(|value| value["artifacts"]["kernel"]["kind"] = "placeholder".into()),
        Box::new(|value| value["artifacts"]["agent"]["kind"] = "shim".into()),
        Box::new(|value| value["artifacts"]["kernel"]["sha256"] = "0".repeat(64).into()),
        Box::new(|value| value["evidence"] = serde_json::Value::Null),
        Box::new(|value| {
            value["artifacts"].as_object_mut().unwrap().remove("agent");
            value["evidence"]["artifacts"].as_object_mut().unwrap().remove("agent");
        }),
    ];
    for (n, edit) in edits.iter().enumerate() {
        let bench = raised();
        reseal(&bench, edit);
        assert!(matches!(bench.open(), Err(RuntimeError::Unearned { .. })), "edit {n}");
    }

    // A script as /init, with a manifest that has its digest and claims that it is real and was measured.
    let bench = raised();
    let shim = cpio("init", 0o100_755, &b"#!/bin/sh\nexit 0\n".repeat(10_000));
    fs::write(bench.at("runtime/initramfs.cpio"), &shim).unwrap();
    reseal(&bench, &|value| {
        value["artifacts"]["initramfs"]["sha256"] = sha256(&shim).into();
        value["artifacts"]["initramfs"]["size"] = shim.len().into();
        value["evidence"]["artifacts"]["initramfs"] = sha256(&shim).into();
    });
    assert!(matches!(bench.open(), Err(RuntimeError::NotReal { .. })));
}

#[test]
fn an_artifact_swapped_afterwards_is_never_handed_out() {
    let bench = Bench::new();
    let bundle = bench.write().unwrap();
    let proof = evidence(&bundle);
    let bundle = bundle.raise(proof).unwrap();
    bundle.open_artifact("kernel").unwrap();
    let path = bench.at("runtime/vmlinux");
    let mut other = kernel();
    other[1 << 20] = 1;

    // In place, of the same size, and put there by a rename; both after it was verified once.
    fs::write(&path, &other).unwrap();
    assert!(matches!(bundle.open_artifact("kernel"), Err(RuntimeError::Changed { .. })));
    fs::write(bench.at("next"), &other).unwrap();
    fs::rename(bench.at("next"), &path).unwrap();
    assert!(matches!(bundle.open_artifact("kernel"), Err(RuntimeError::Changed { .. })));
    assert!(matches!(bundle.verify_all(), Err(RuntimeError::Changed { .. })));
    assert!(matches!(bench.open().unwrap().open_artifact("kernel"), Err(RuntimeError::Changed { .. })));

    fs::write(&path, &other[..100]).unwrap();
    assert!(matches!(bench.open(), Err(RuntimeError::Changed { .. })));
    fs::write(bench.at("elsewhere"), kernel()).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(bench.open(), Err(RuntimeError::Changed { .. })));
    symlink(bench.at("elsewhere"), &path).unwrap();
    assert!(
        matches!(bench.open(), Err(RuntimeError::Changed { .. })),
        "not even a link to the right content"
    );
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(bench.open(), Err(RuntimeError::Changed { .. })));
    fs::remove_dir(&path).unwrap();
    fs::write(&path, kernel()).unwrap();
    bench.open().unwrap().open_artifact("kernel").unwrap();
    assert!(matches!(bench.open().unwrap().open_artifact("jailer"), Err(RuntimeError::NoArtifact { .. })));
}

#[test]
fn a_directory_that_is_no_bundle_is_not_replaced() {
    let bench = Bench::new();
    assert!(matches!(bench.open(), Err(RuntimeError::Missing(_))));
    fs::create_dir(bench.at("runtime")).unwrap();
    assert!(matches!(bench.open(), Err(RuntimeError::Missing(_))));
    fs::write(bench.at("runtime/letters.txt"), "dear").unwrap();
    assert!(matches!(bench.write(), Err(RuntimeError::Io { .. })));
    assert_eq!(fs::read_to_string(bench.at("runtime/letters.txt")).unwrap(), "dear");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
