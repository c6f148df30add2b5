//! Whatever an image says: everything that can be asked of it gives an answer or an error, soon and in little memory.
#![no_main]

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pyro_formats::disk::{Budget, DiskError, Ext4, InodeKind, Merged};
use pyro_fuzz::Input;
use pyro_fuzz::image::{ALL, Changed};

/// Files of a listing that are looked into.
const FILES: usize = 60;
/// Bytes that are read of a file, and that a copy of one is let have.
const CONTENT: usize = 20_000;
/// Steps that all questions about one image may take: what the images cost before they are changed, some times over.
const WORK: u64 = 200_000;

fn ask(image: &File, budget: &Budget) -> Result<(), DiskError> {
    let open = || Ext4::open(image.try_clone().unwrap(), budget);
    let (ext4, merged) = (open()?, Merged::new(open()?, open()?)?);
    let mut found = Vec::new();
    let listed = merged.list(Path::new("/"), true, &mut |file| {
        assert!(
            file.path.is_absolute()
                && !file.path.components().any(|part| part == std::path::Component::ParentDir)
        );
        found.push(file);
        if found.len() < FILES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let mut buffer = vec![0; CONTENT];
    for (index, file) in found.iter().enumerate() {
        let inode = file.node.inode();
        // What costs most and differs least from file to file.
        if index % 4 == 0 {
            let _ = merged.find(&file.path);
            let _ = merged.find_link(&file.path.join("x/../.."));
            let _ = merged.children(&file.node);
            let _ = merged.read(&file.path, 1, CONTENT).map(|content| assert!(content.len() <= CONTENT));
        }
        let _ = merged.read_at(&file.node, inode.size().saturating_sub(10), &mut buffer);
        let mut at = 0;
        for _ in 0..10 {
            match merged.next_data(&file.node, at) {
                Ok(Some(data)) => {
                    assert!(data.start >= at && data.end > data.start && data.end <= inode.size());
                    at = data.end;
                }
                _ => break,
            }
        }
        for time in [inode.modified(), inode.changed(), inode.accessed()] {
            assert!(time.nanoseconds < 1_000_000_000);
        }
        for name in ext4.attribute_names(inode).unwrap_or_default().iter().take(50) {
            let _ = ext4.attribute(inode, name);
        }
        if file.node.kind() != InodeKind::File {
            continue;
        }
        let mut left = 2_u64 << 20;
        let to = tempfile::tempfile_in("/dev/shm").unwrap();
        let _ = merged.copy(&file.node, &to, Path::new("copy"), &mut |count| {
            left = left.saturating_sub(count);
            left > 0
        });
    }
    listed
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let index = usize::from(input.byte()) % ALL;
    let image = Changed::new(index, false, &mut input);
    let asked = ask(&image.open(), &Budget::new(WORK));
    if bytes.len() <= 1 {
        asked.unwrap();
    }
});
