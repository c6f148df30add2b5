//! Whatever a journal and a list of deleted files say: a replay in memory and an export, where nothing is left to be replayed.
#![no_main]

use std::fs::File;

use libfuzzer_sys::fuzz_target;
use pyro_formats::disk::{Budget, Ext4, export};
use pyro_fuzz::Input;
use pyro_fuzz::image::{ALL, Changed, WITH_JOURNAL};

/// Steps that one export may take: what that of an image costs that nobody changed, some times over.
const WORK: u64 = 100_000;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let choice = usize::from(input.byte());
    // Without the first bit all of the image is changed, for what the list of deleted files leads to.
    let journal = choice & 1 != 0;
    let image = Changed::new(choice / 2 % if journal { WITH_JOURNAL } else { ALL }, journal, &mut input);
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (once, twice) = (dir.path().join("once"), dir.path().join("twice"));
    let exported = export(&image.open(), &once, false, &Budget::new(WORK));
    if bytes.len() <= 1 && journal {
        assert_eq!(exported.as_ref().unwrap().orphans, 1);
    }
    match exported {
        Err(_) => assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0),
        Ok(exported) => {
            assert_eq!(exported.size, image.open().metadata().unwrap().len());
            let copy = File::open(&once).unwrap();
            Ext4::open(copy.try_clone().unwrap(), &Budget::new(WORK)).unwrap();
            if let Ok(again) = export(&copy, &twice, false, &Budget::new(WORK)) {
                assert_eq!(again.replayed, 0);
            }
        }
    }
});
