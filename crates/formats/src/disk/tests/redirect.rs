//! Directories of the base that a guest renamed: what its kernel writes down, and what a hostile one may.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;

/// A base with directories over several levels.
fn base(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    for path in ["usr/share/doc/apt/examples", "usr/share/man", "usr/lib/a/b/c", "var/old", "etc"] {
        let mut here = PathBuf::new();
        for name in path.split('/') {
            here.push(name);
            fs::create_dir_all(tree.join(&here)).unwrap();
            fs::write(tree.join(&here).join("own"), here.display().to_string()).unwrap();
        }
    }
    std::os::unix::fs::symlink("usr/lib", tree.join("lib")).unwrap();
    let options = ["-b", "4096", "-I", "256", "-O", "none,extent,ext_attr,filetype"];
    make(dir, "base", &options, Some(&tree), "8M")
}

fn merged(dir: &Path, script: &str, budget: &Budget) -> Merged {
    let (base, disk) = (base(dir), make(dir, "disk", MODERN, None, "24M"));
    debugfs(&disk, &format!("mkdir workspace\nmkdir .pyro\nmkdir .pyro/upper\ncd .pyro/upper\n{script}"));
    let open = |image: &Path| Ext4::open(File::open(image).unwrap(), budget).unwrap();
    Merged::new(open(&base), open(&disk)).unwrap()
}

fn list(merged: &Merged, path: &str) -> Result<Vec<String>, DiskError> {
    let mut found = Vec::new();
    merged.list(Path::new(path), true, &mut |file| {
        found.push(file.path.display().to_string());
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn read(merged: &Merged, path: &str) -> String {
    String::from_utf8(merged.read(Path::new(path), 0, 100).unwrap()).unwrap()
}

/// `debugfs` commands that make a directory of the upper layer with a redirect.
fn moved(path: &str, to: &str) -> String {
    format!("mkdir {path}\nea_set {path} trusted.overlay.redirect {to}\n")
}

/// Those that leave a whiteout at a path.
fn gone(path: &str) -> String {
    let (above, name) = path.rsplit_once('/').unwrap();
    format!("cd {above}\nmknod {name} c 0 0\ncd /.pyro/upper\n")
}

#[test]
fn a_tree_of_several_levels_moves_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    // mv /usr/share /usr/shared; then, within it, mv doc docs; then mv docs/apt /opt, and a file of it removed there.
    let script = [
        "mkdir usr\n".into(),
        gone("usr/share"),
        moved("usr/shared", "share"),
        gone("usr/shared/doc"),
        moved("usr/shared/docs", "doc"),
        gone("usr/shared/docs/apt"),
        moved("opt", "/usr/share/doc/apt"),
        "mkdir opt/examples\n".into(),
        gone("opt/examples/own"),
    ]
    .concat();
    let merged = merged(dir.path(), &script, &plenty());
    let below = list(&merged, "/usr/shared").unwrap();
    assert_eq!(
        below,
        [
            "/usr/shared/docs",
            "/usr/shared/docs/own",
            "/usr/shared/man",
            "/usr/shared/man/own",
            "/usr/shared/own"
        ]
    );
    assert_eq!(list(&merged, "/opt").unwrap(), ["/opt/examples", "/opt/own"]);
    assert_eq!(read(&merged, "/usr/shared/docs/own"), "usr/share/doc");
    assert_eq!(read(&merged, "/opt/own"), "usr/share/doc/apt");
    for gone in ["/usr/share", "/usr/shared/doc/own", "/usr/shared/docs/apt/own", "/opt/examples/own"] {
        let error = merged.find(Path::new(gone)).unwrap_err();
        assert!(matches!(error, DiskError::NotFound { .. }), "{gone}: {error}");
    }
}

#[test]
fn a_renamed_directory_within_another_one_is_found_from_the_root() {
    let dir = tempfile::tempdir().unwrap();
    // mv /usr/lib /lib2; mv /var/old /lib2/a/old: two renamed directories, one within the other. Then the two names of
    // /etc and /usr exchanged.
    let script = moved("lib2", "/usr/lib") + "mkdir lib2/a\n" + &moved("lib2/a/old", "/var/old");
    let script = script + &moved("usr", "etc") + &moved("etc", "usr") + &gone("etc/lib");
    let merged = merged(dir.path(), &script, &plenty());
    assert_eq!(read(&merged, "/lib2/a/old/own"), "var/old");
    assert_eq!(read(&merged, "/lib2/a/b/c/own"), "usr/lib/a/b/c");
    assert_eq!(
        (read(&merged, "/usr/own"), read(&merged, "/etc/share/man/own")),
        ("etc".into(), "usr/share/man".into())
    );
    assert!(merged.find(Path::new("/etc/lib")).is_err());
    // A symbolic link is followed in the tree that there is now.
    assert!(merged.find(Path::new("/lib/a")).is_err());
}

#[test]
fn what_a_redirect_cannot_lead_to_is_not_merged() {
    let dir = tempfile::tempdir().unwrap();
    // A missing path, a file, a way through a link, one relative in a directory that has no lower part; and one that is
    // opaque as well.
    let script = moved("missing", "/usr/none/x") + &moved("file", "/etc/own/x") + &moved("onto", "/etc/own");
    let script = script + &moved("link", "/lib/a") + "mkdir new\n" + &moved("new/etc", "usr");
    let script = script + &moved("both", "/etc") + "ea_set both trusted.overlay.opaque y\n";
    let merged = merged(dir.path(), &script, &plenty());
    for path in ["/missing", "/file", "/onto", "/link", "/new/etc", "/both"] {
        assert_eq!(list(&merged, path).unwrap(), Vec::<String>::new(), "{path}");
    }
    // Seen from above they are there.
    assert!(list(&merged, "/new").unwrap() == ["/new/etc"]);
}

/// Directories that each lead to a large part of the base, within each other: the tree is as deep as the guest made it, and
/// its work ends.
#[test]
fn redirects_are_no_bomb() {
    let dir = tempfile::tempdir().unwrap();
    let mut script = String::new();
    let mut path = String::new();
    for level in 0..20 {
        path += &format!("{}l{level}", if level == 0 { "" } else { "/" });
        script += &moved(&path, "/usr/lib/a");
    }
    for beside in 0..100 {
        script += &moved(&format!("b{beside}"), "/usr/share");
    }
    let budget = plenty();
    let tree = merged(dir.path(), &script, &budget);
    let opened = budget.spent();
    // The lower directory would be in a hundred places: no kernel writes that.
    let error = list(&tree, "/").unwrap_err();
    assert!(error.to_string().contains("in two places"), "{error}");
    assert!(budget.spent() - opened < 20_000, "{}", budget.spent());
    // Each of them alone is what it says.
    assert_eq!(list(&tree, "/b7").unwrap().len(), 9);
    assert_eq!(read(&tree, &format!("/{path}/b/c/own")), "usr/lib/a/b/c");
    assert!(matches!(tree.find(Path::new(&format!("/{path}/l20"))), Err(DiskError::NotFound { .. })));
}

/// Directories of the upper layer that are within themselves, with redirects on top.
#[test]
fn a_circle_with_redirects_ends() {
    let dir = tempfile::tempdir().unwrap();
    let script = moved("a", "/usr") + &moved("a/b", "share") + "link a a/b/a\nlink a/b a/b/b\n";
    let tree = merged(dir.path(), &script, &plenty());
    let error = list(&tree, "/a").unwrap_err();
    assert!(error.to_string().contains("in two places"), "{error}");
    assert!(tree.find(Path::new(&format!("/a{}", "/b".repeat(500)))).is_ok());
}

/// A redirect that may be anything: the kernel's words, other paths, and bytes that no kernel writes.
fn redirect() -> impl Strategy<Value = String> {
    let name =
        prop::sample::select(vec!["usr", "share", "doc", "apt", "lib", "a", "b", "..", ".", "none", "own"]);
    let path = prop::collection::vec(name, 1..5).prop_map(|names| names.join("/"));
    prop_oneof![
        4 => path.clone().prop_map(|path| format!("/{path}")),
        2 => path,
        1 => prop::sample::select(vec!["/", "//usr", "/usr/", "/usr//share", "x"]).prop_map(String::from),
        1 => (1_usize..300).prop_map(|count| "/usr".repeat(count)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever redirects say, a listing ends, its paths are found, and no step leads out of the base's tree.
    #[test]
    fn any_redirects_give_a_tree_or_an_error(
        redirects in prop::collection::vec((prop::sample::select(vec!["p", "p/q", "p/q/r", "usr", "usr/share", "s"]), redirect()), 1..7),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut script = String::from("mkdir p\nmkdir p/q\nmkdir p/q/r\nmkdir usr\nmkdir usr/share\nmkdir s\n");
        for (path, to) in &redirects {
            script += &format!("ea_set {path} trusted.overlay.redirect {to}\n");
        }
        let budget = Budget::new(100_000);
        let tree = merged(dir.path(), &script, &budget);
        let mut found = Vec::new();
        let listed = tree.list(Path::new("/"), true, &mut |file| {
            found.push((file.path, file.node));
            ControlFlow::Continue(())
        });
        if let Err(error) = &listed {
            let damaged = matches!(error, DiskError::Damaged { .. });
            prop_assert!(damaged, "{error}");
        }
        prop_assert!(found.len() < 500);
        for (path, node) in &found {
            let again = tree.find_link(path).unwrap();
            prop_assert_eq!(again.inode().number(), node.inode().number());
            prop_assert_eq!(again.layer(), node.layer());
        }
    }
}
