//! Finding where a hunk belongs in a file.
//!
//! First to the letter, then with white space looked at less closely, then, unless context is all that says where it
//! belongs, with one and two lines of context left out at both ends. In each of these the place that the header names
//! goes first; any other must be the only one, or the next one after the lines that the hunk names as standing above it.

use std::collections::{BTreeMap, HashMap};

use super::anchor;
use super::error::{Nearest, Reason, Rejected};
use super::{Hunk, Line, LineKind};

/// Lines of context that may be left out at each end.
const MAX_FUZZ: usize = 2;

/// Closeness of a comparison of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closeness {
    /// Compares every byte.
    Exact,
    /// Leaves line ends out.
    LineEnds,
    /// Leaves white space at the end out.
    Trailing,
    /// Leaves the amount of white space out, in marked context; all else is compared as with `Trailing`.
    Amount,
}

const CLOSENESS: [Closeness; 4] =
    [Closeness::Exact, Closeness::LineEnds, Closeness::Trailing, Closeness::Amount];

/// Places in the order of the file: only neighbours can meet.
type Taken = BTreeMap<(usize, usize), Place>;

/// Place of a hunk in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The first line of the file that it covers, from 0.
    pub(super) at: usize,
    /// Lines of the hunk that are left out at its beginning.
    pub(super) skip_front: usize,
    /// Lines of the hunk that are left out at its end.
    pub(super) skip_back: usize,
    /// Lines of the file that the hunk covers.
    pub(super) covers: usize,
}

impl Place {
    /// Whether both cover the same line, or both add at the same place.
    fn meets(&self, other: &Place) -> bool {
        let (end, other_end) = (self.at + self.covers, other.at + other.covers);
        (self.at < other_end && other.at < end)
            || (self.at == other.at && self.covers == 0 && other.covers == 0)
    }

    /// Whether it meets none of `taken`.
    fn is_free(&self, taken: &Taken) -> bool {
        !self.neighbours(taken).any(|other| other.meets(self))
    }

    fn neighbours<'t>(&self, taken: &'t Taken) -> impl Iterator<Item = &'t Place> {
        let key = (self.at, self.covers);
        taken.range(..key).next_back().into_iter().chain(taken.range(key..).next()).map(|(_, place)| place)
    }
}

/// Finds places for all hunks of a file, whose lines are `file` with their line ends. Failing hunks are told by their
/// index.
pub(super) fn places(file: &[&[u8]], hunks: &[Hunk<'_>]) -> Result<Vec<Place>, Vec<(usize, Reason)>> {
    let (mut places, mut failures): (Vec<Place>, Vec<(usize, Reason)>) = (Vec::new(), Vec::new());
    let mut taken = Taken::new();
    // By how many lines the last hunk was off, and where it ended: the next one is likely to follow it.
    let (mut drift, mut after) = (0_i64, 0_usize);
    for (index, hunk) in hunks.iter().enumerate() {
        let stated = hunk.old_start.map(|start| {
            let old = hunk.lines.iter().any(|line| line.kind != LineKind::Add);
            // A hunk that covers no line names the one before it.
            if old { start.saturating_sub(1) } else { start }
        });
        let expected: Vec<usize> = stated.map_or_else(Vec::new, |stated| {
            let drifted = usize::try_from(stated as i64 + drift).ok();
            drifted.into_iter().chain(usize::try_from(stated).ok()).collect()
        });
        match place(file, hunk, &expected, after, &taken) {
            Ok(place) if !place.is_free(&taken) => {
                failures.push((index, Reason::Overlaps));
            }
            Ok(place) => {
                taken.insert((place.at, place.covers), place);
                if let Some(stated) = stated {
                    drift = place.at as i64 - place.skip_front as i64 - stated as i64;
                }
                after = place.at + place.covers;
                places.push(place);
            }
            Err(reason) => failures.push((index, reason)),
        }
        if failures.len() > Rejected::MOST {
            break;
        }
    }
    if failures.is_empty() { Ok(places) } else { Err(failures) }
}

fn place(
    file: &[&[u8]],
    hunk: &Hunk<'_>,
    expected: &[usize],
    after: usize,
    taken: &Taken,
) -> Result<Place, Reason> {
    let starts = anchor::starts(file, &hunk.anchors, after)?;
    let old: Vec<Line<'_>> = hunk.lines.iter().filter(|line| line.kind != LineKind::Add).copied().collect();
    if old.is_empty() {
        // Nothing to look for: only an empty file, its end, or an exact header, says where it belongs.
        if hunk.at_end {
            return Ok(Place { at: file.len(), skip_front: 0, skip_back: 0, covers: 0 });
        }
        let sure =
            if file.is_empty() { Some(0) } else { hunk.old_start.and_then(|_| expected.first().copied()) };
        let zero = hunk.header.split(' ').nth(1).is_some_and(|range| range.ends_with(",0"));
        let at = sure.filter(|at| file.is_empty() || (zero && *at <= file.len())).ok_or(Reason::NoContext)?;
        return Ok(Place { at, skip_front: 0, skip_back: 0, covers: 0 });
    }
    let context = |line: &&Line<'_>| line.kind == LineKind::Context && !line.unmarked;
    let front = hunk.lines.iter().take_while(context).count();
    let back = hunk.lines.iter().rev().take_while(context).count();
    let mut tried = None;
    for fuzz in 0..=if hunk.whole { 0 } else { MAX_FUZZ } {
        let (skip_front, skip_back) = (front.min(fuzz), back.min(fuzz));
        if skip_front + skip_back >= old.len() || tried == Some((skip_front, skip_back)) {
            break;
        }
        tried = Some((skip_front, skip_back));
        let wanted = &old[skip_front..old.len() - skip_back];
        // What is left must say something: with blank lines alone it would fit anywhere.
        if fuzz > 0 && wanted.iter().all(|line| line.text.trim_ascii().is_empty()) {
            break;
        }
        for closeness in CLOSENESS {
            let expected = expected.iter().map(|at| at + skip_front);
            let found = if hunk.at_end {
                let at = file.len().checked_sub(wanted.len());
                at.filter(|at| {
                    starts.first().is_none_or(|start| start <= at) && fits(file, wanted, closeness, *at)
                })
                .map_or(Found::None, Found::At)
            } else if starts.is_empty() {
                search(file, wanted, closeness, expected, after)
            } else {
                led(file, wanted, closeness, &starts, taken)
            };
            match found {
                Found::At(at) => return Ok(Place { at, skip_front, skip_back, covers: wanted.len() }),
                Found::Several(lines) => return Err(Reason::Ambiguous { lines }),
                Found::None => {}
            }
        }
    }
    if let Some(line) = applied_already(file, hunk, expected) {
        return Err(Reason::AlreadyApplied { line });
    }
    if hunk.at_end || !starts.is_empty() {
        let line = match search(file, &old, Closeness::Trailing, std::iter::empty(), 0) {
            Found::At(at) => Some(at + 1),
            Found::Several(lines) => lines.first().copied(),
            Found::None => None,
        };
        if let Some(line) = line {
            let after = starts.first().filter(|_| !hunk.at_end).map(|start| start + 1);
            return Err(Reason::Elsewhere { line, after });
        }
    }
    Err(Reason::NotFound { nearest: nearest(file, &old, expected.first().copied()) })
}

enum Found {
    At(usize),
    Several(Vec<usize>),
    None,
}

fn search(
    file: &[&[u8]],
    wanted: &[Line<'_>],
    closeness: Closeness,
    mut expected: impl Iterator<Item = usize>,
    after: usize,
) -> Found {
    let fits = |at: usize| fits(file, wanted, closeness, at);
    if let Some(at) = expected.find(|at| fits(*at)) {
        return Found::At(at);
    }
    let last = (file.len() + 1).saturating_sub(wanted.len());
    // Hunks stand in the order of the file, mostly.
    for range in [after.min(last)..last, 0..after.min(last)] {
        let mut places = range.filter(|at| fits(*at));
        match (places.next(), places.next()) {
            (None, _) => {}
            (Some(at), None) => return Found::At(at),
            (Some(one), Some(two)) => {
                let lines = [one, two].into_iter().chain(places.take(3)).map(|at| at + 1);
                return Found::Several(lines.collect());
            }
        }
    }
    Found::None
}

/// Looks for what the anchors lead to. One that is next to the letter has to be next also where white space at line ends
/// is left out: that does not tell which of two is meant.
fn led(file: &[&[u8]], wanted: &[Line<'_>], closeness: Closeness, starts: &[usize], taken: &Taken) -> Found {
    match (next(file, wanted, closeness, starts, taken), closeness) {
        (Found::At(at), Closeness::Exact | Closeness::LineEnds) => {
            match next(file, wanted, Closeness::Trailing, starts, taken) {
                Found::At(other) if other != at => Found::Several(vec![at.min(other) + 1, at.max(other) + 1]),
                found => found,
            }
        }
        (found, _) => found,
    }
}

/// Looks for the next place from each of `starts`. It must be the same from all of them.
fn next(file: &[&[u8]], wanted: &[Line<'_>], closeness: Closeness, starts: &[usize], taken: &Taken) -> Found {
    let fits = |at: &usize| fits(file, wanted, closeness, *at);
    // What another hunk changes already is not meant, unless there is nothing else.
    let free = |at: &usize| {
        fits(at) && Place { at: *at, skip_front: 0, skip_back: 0, covers: wanted.len() }.is_free(taken)
    };
    let mut places: Vec<usize> = Vec::new();
    for start in starts {
        if places.last().is_some_and(|last| last >= start) {
            continue;
        }
        match (*start..file.len()).find(free) {
            Some(at) if places.len() < 5 => places.push(at),
            _ => break,
        }
    }
    match &places[..] {
        [] => (starts[0]..file.len()).find(fits).map_or(Found::None, Found::At),
        [at] => Found::At(*at),
        _ => Found::Several(places.iter().map(|at| at + 1).collect()),
    }
}

fn fits(file: &[&[u8]], wanted: &[Line<'_>], closeness: Closeness, at: usize) -> bool {
    let there = at.checked_add(wanted.len()).and_then(|end| file.get(at..end));
    there.is_some_and(|there| there.iter().zip(wanted).all(|(line, wanted)| same(line, wanted, closeness)))
}

/// Whether a line of the file, with its line end, is the one that a hunk has.
fn same(line: &[u8], wanted: &Line<'_>, closeness: Closeness) -> bool {
    match closeness {
        Closeness::Exact => match line.strip_suffix(b"\n") {
            Some(text) => wanted.newline && text == wanted.text,
            None => !wanted.newline && line == wanted.text,
        },
        Closeness::LineEnds => body(line) == body(wanted.text),
        Closeness::Amount if wanted.kind == LineKind::Context && !wanted.unmarked => {
            words(line).eq(words(wanted.text))
        }
        Closeness::Trailing | Closeness::Amount => line.trim_ascii_end() == wanted.text.trim_ascii_end(),
    }
}

/// A line without its end.
pub(super) fn body(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// The line where the file has what the hunk would make, when it has that once, or where the header says.
fn applied_already(file: &[&[u8]], hunk: &Hunk<'_>, expected: &[usize]) -> Option<usize> {
    let new: Vec<Line<'_>> =
        hunk.lines.iter().filter(|line| line.kind != LineKind::Remove).copied().collect();
    let says_something =
        new.iter().any(|line| line.kind == LineKind::Add && !line.text.trim_ascii().is_empty());
    if !says_something {
        return None;
    }
    match search(file, &new, Closeness::LineEnds, expected.iter().copied(), 0) {
        Found::At(at) => Some(at + 1),
        Found::Several(_) | Found::None => None,
    }
}

/// Lines of a hunk that take part in looking for what is nearest.
const VOTERS: usize = 40;
/// Places in the file that one such line may vote for; a line that is everywhere says nothing.
const VOTES: usize = 200;
/// Lines of the file that are compared letter by letter, around the place that the header names.
const LETTERS: usize = 4000;

/// The place of the file that has the most lines of the hunk, or the line that is most like one of them.
fn nearest(file: &[&[u8]], old: &[Line<'_>], expected: Option<usize>) -> Option<Nearest> {
    let voted = vote(file, old, expected).or_else(|| similar(file, old, expected))?;
    let mismatch = (0..old.len()).find(|index| {
        let there = file.get(voted + index);
        there.is_none_or(|there| !same(there, &old[*index], Closeness::Trailing))
    });
    let focus = voted + mismatch.unwrap_or(0);
    let start = focus.saturating_sub(2).min(file.len().saturating_sub(1));
    let found: Vec<String> = file[start..].iter().take(6).map(|line| shown(line)).collect();
    let differs = mismatch.map(|index| (voted + index + 1, shown(old[index].text)));
    Some(Nearest { line: start + 1, found: found.join("\n"), differs })
}

/// A line, cut to what can be shown.
fn shown(line: &[u8]) -> String {
    let line = body(line);
    let text: String = String::from_utf8_lossy(&line[..line.len().min(480)]).chars().take(121).collect();
    match text.char_indices().nth(120) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn vote(file: &[&[u8]], old: &[Line<'_>], expected: Option<usize>) -> Option<usize> {
    let says = |line: &&[u8]| line.iter().filter(|byte| byte.is_ascii_alphanumeric()).count() > 1;
    let mut voters: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (index, line) in old.iter().enumerate().take(VOTERS) {
        let text = line.text.trim_ascii();
        if says(&text) {
            voters.entry(text).or_default().push(index);
        }
    }
    let mut used: HashMap<&[u8], usize> = HashMap::new();
    let mut votes: HashMap<usize, usize> = HashMap::new();
    for (at, line) in file.iter().enumerate() {
        let text = line.trim_ascii();
        let Some(indexes) = voters.get(text) else { continue };
        let used = used.entry(text).or_default();
        *used += 1;
        if *used <= VOTES {
            for start in indexes.iter().filter_map(|index| at.checked_sub(*index)) {
                *votes.entry(start).or_default() += 1;
            }
        }
    }
    let off = |at: usize| expected.map_or(at, |expected| expected.abs_diff(at));
    votes.into_iter().max_by_key(|(at, votes)| (*votes, std::cmp::Reverse((off(*at), *at)))).map(|(at, _)| at)
}

fn similar(file: &[&[u8]], old: &[Line<'_>], expected: Option<usize>) -> Option<usize> {
    let says = |line: &&Line<'_>| line.text.iter().filter(|byte| byte.is_ascii_alphanumeric()).count() > 2;
    let removed = |line: &&Line<'_>| line.kind == LineKind::Remove && says(line);
    let wanted = old.iter().find(removed).or_else(|| old.iter().find(says))?;
    let text = |line: &[u8]| {
        let line = line.trim_ascii();
        String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned()
    };
    let wanted = text(wanted.text);
    let from = expected.unwrap_or(0).saturating_sub(LETTERS / 2).min(file.len().saturating_sub(LETTERS));
    let scored = file[from..].iter().take(LETTERS).enumerate().map(|(at, line)| {
        let score = strsim::sorensen_dice(&text(line), &wanted);
        ((score * 1000.0) as u32, from + at)
    });
    let best =
        scored.max_by_key(|(score, at)| (*score, std::cmp::Reverse(expected.unwrap_or(0).abs_diff(*at))));
    best.filter(|(score, _)| *score >= 500).map(|(_, at)| at)
}

/// The lines of a file, with their ends.
pub(super) fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split_inclusive(|byte| *byte == b'\n')
}
