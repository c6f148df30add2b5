//! Output of a job: its last bytes, in the order in which they were read, each with the stream that it came from.
//!
//! Cursors count the bytes of both streams together, from the job's start.

use std::collections::VecDeque;

use pyro_proto::frame::Channel;
use pyro_proto::message::JOB_KEPT;

/// Most changes between the streams that are kept: two streams that take turns byte by byte must not cost more than
/// their bytes.
const MAX_RUNS: usize = 16 * 1024;

/// Record of a job's output.
#[derive(Default)]
pub struct OutputRecord {
    bytes: VecDeque<u8>,
    /// Ends of the stretches of one stream, in order; the last stretch ends at `written`.
    runs: VecDeque<(u64, Channel)>,
    written: u64,
}

impl OutputRecord {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The first byte that is kept.
    pub fn kept_from(&self) -> u64 {
        self.written - self.bytes.len() as u64
    }

    /// Whether `len` more bytes can come without that byte `from` is lost.
    pub fn has_room(&self, from: u64, len: usize) -> bool {
        let runs = self.runs.len() - self.runs.partition_point(|(end, _)| *end <= from);
        self.written + len as u64 <= from + JOB_KEPT as u64 && runs < MAX_RUNS
    }

    /// Adds bytes that were read from `channel`.
    pub fn push(&mut self, channel: Channel, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.written += bytes.len() as u64;
        let over = (self.bytes.len() + bytes.len()).saturating_sub(JOB_KEPT);
        self.bytes.drain(..over.min(self.bytes.len()));
        let bytes = &bytes[bytes.len().saturating_sub(JOB_KEPT)..];
        // By itself the buffer would grow to twice its limit.
        let wanted = self.bytes.len() + bytes.len();
        if wanted > self.bytes.capacity() {
            let room = wanted.next_power_of_two().min(JOB_KEPT);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend(bytes);
        match self.runs.back_mut() {
            Some((end, last)) if *last == channel => *end = self.written,
            _ => self.runs.push_back((self.written, channel)),
        }
        while let Some(&(end, _)) = self.runs.front() {
            if self.runs.len() > MAX_RUNS {
                let lost = end.saturating_sub(self.kept_from()) as usize;
                self.bytes.drain(..lost);
            } else if end > self.kept_from() {
                break;
            }
            self.runs.pop_front();
        }
    }

    /// Copies output from byte `from` on into `out`: bytes of one stream, as many as fit. `from` must be between
    /// [`Self::kept_from`] and [`Self::written`]; at the latter there is none.
    pub fn copy(&self, from: u64, out: &mut [u8]) -> Option<(Channel, usize)> {
        let at = self.runs.partition_point(|(end, _)| *end <= from);
        let (end, channel) = *self.runs.get(at)?;
        let start = from.checked_sub(self.kept_from())? as usize;
        let len = out.len().min((end - from) as usize);
        let (first, second) = self.bytes.as_slices();
        let mut done = 0;
        if start < first.len() {
            done = len.min(first.len() - start);
            out[..done].copy_from_slice(&first[start..start + done]);
        }
        if done < len {
            let start = (start + done) - first.len();
            out[done..len].copy_from_slice(&second[start..start + len - done]);
        }
        Some((channel, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(number: usize) -> Channel {
        if number.is_multiple_of(2) { Channel::Stdout } else { Channel::Stderr }
    }

    /// Reads it all from `from` on, in pieces of `step`.
    fn read(record: &OutputRecord, mut from: u64, step: usize) -> Vec<(Channel, u8)> {
        let (mut out, mut buffer) = (Vec::new(), vec![0; step]);
        while let Some((channel, n)) = record.copy(from, &mut buffer) {
            assert!(n > 0);
            out.extend(buffer[..n].iter().map(|byte| (channel, *byte)));
            from += n as u64;
        }
        assert_eq!(from, record.written());
        out
    }

    #[test]
    fn every_cursor_reads_the_rest_and_nothing_else() {
        let mut record = OutputRecord::default();
        let mut all = Vec::new();
        for round in 0_usize..40 {
            let bytes: Vec<u8> = (0..round % 7).map(|at| (round * 7 + at) as u8).collect();
            record.push(channel(round / 3), &bytes);
            all.extend(bytes.iter().map(|byte| (channel(round / 3), *byte)));
        }
        for from in 0..=all.len() {
            for step in [1, 3, 1000] {
                assert_eq!(read(&record, from as u64, step), all[from..], "{from} {step}");
            }
        }
    }

    #[test]
    fn the_last_megabyte_is_kept() {
        let mut record = OutputRecord::default();
        let mut all = Vec::new();
        for round in 0_usize..50 {
            let bytes: Vec<u8> = (0..70_001).map(|at| (at * 31 + round) as u8).collect();
            record.push(channel(round), &bytes);
            all.extend(bytes.iter().map(|byte| (channel(round), *byte)));
        }
        let from = record.kept_from();
        assert_eq!((record.written(), from), (all.len() as u64, (all.len() - JOB_KEPT) as u64));
        assert!(read(&record, from, 128 * 1024) == all[from as usize..]);
        record.push(Channel::Stdout, &vec![7; JOB_KEPT + 5]);
        assert_eq!(record.written() - record.kept_from(), JOB_KEPT as u64);
        assert_eq!(read(&record, record.kept_from(), JOB_KEPT).len(), JOB_KEPT);
        assert!(record.bytes.capacity() < JOB_KEPT + 1024, "{}", record.bytes.capacity());
    }

    #[test]
    fn streams_that_take_turns_stay_bounded() {
        let mut record = OutputRecord::default();
        for round in 0..3 * MAX_RUNS {
            record.push(channel(round), &[round as u8]);
        }
        assert!(record.runs.len() <= MAX_RUNS);
        let kept = read(&record, record.kept_from(), 10);
        assert_eq!(kept.len(), MAX_RUNS);
        assert_eq!(kept.last(), Some(&(channel(3 * MAX_RUNS - 1), (3 * MAX_RUNS - 1) as u8)));
    }
}
