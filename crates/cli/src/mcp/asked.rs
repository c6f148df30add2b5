//! Requests of a client that are under way, and the batches in which some of them came: the answers to a batch are told
//! together, once there are all.

use std::collections::HashMap;

use rmcp::model::RequestId;

/// Number of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Batch(u64);

/// Requests that are not answered yet.
#[derive(Debug, Default)]
pub struct Asked {
    under_way: HashMap<RequestId, Option<Batch>>,
    batches: HashMap<Batch, Open>,
    next: u64,
}

/// Batch that is not answered yet.
#[derive(Debug)]
struct Open {
    /// Requests that wait, and one more while the batch is still read.
    waiting: usize,
    answers: Vec<Vec<u8>>,
}

impl Asked {
    /// Begins a batch, which [`Self::end_batch`] has to end.
    pub fn begin_batch(&mut self) -> Batch {
        let batch = Batch(self.next);
        self.next += 1;
        self.batches.insert(batch, Open { waiting: 1, answers: Vec::new() });
        batch
    }

    /// Ends the list of a batch's requests; the line, if nothing in it waits.
    pub fn end_batch(&mut self, batch: Batch) -> Option<Vec<u8>> {
        self.one_less(Some(batch))
    }

    /// Adds an answer to a batch that is no request's.
    pub fn add(&mut self, batch: Batch, answer: Vec<u8>) {
        if let Some(open) = self.batches.get_mut(&batch) {
            open.answers.push(answer);
        }
    }

    /// Notes a request; says whether its id is free.
    pub fn ask(&mut self, id: &RequestId, batch: Option<Batch>) -> bool {
        if self.under_way.contains_key(id) {
            return false;
        }
        self.under_way.insert(id.clone(), batch);
        if let Some(open) = batch.and_then(|batch| self.batches.get_mut(&batch)) {
            open.waiting += 1;
        }
        true
    }

    /// Takes the answer to a request; the line, unless others of its batch are waited for.
    pub fn answer(&mut self, id: &RequestId, answer: Vec<u8>) -> Option<Vec<u8>> {
        match self.under_way.remove(id).flatten() {
            Some(batch) => {
                self.add(batch, answer);
                self.one_less(Some(batch))
            }
            None => Some(answer),
        }
    }

    /// Forgets a request that gets no answer; the line, if its batch waited only for that.
    pub fn give_up(&mut self, id: &RequestId) -> Option<Vec<u8>> {
        let batch = self.under_way.remove(id).flatten();
        self.one_less(batch)
    }

    fn one_less(&mut self, batch: Option<Batch>) -> Option<Vec<u8>> {
        let batch = batch?;
        let open = self.batches.get_mut(&batch)?;
        open.waiting = open.waiting.saturating_sub(1);
        if open.waiting > 0 {
            return None;
        }
        let open = self.batches.remove(&batch)?;
        if open.answers.is_empty() {
            return None;
        }
        Some([b"[".as_slice(), &open.answers.join(b",".as_slice()), b"]"].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: i64) -> RequestId {
        RequestId::Number(number)
    }

    #[test]
    fn a_batch_is_answered_once_all_of_it_is() {
        let mut asked = Asked::default();
        let batch = asked.begin_batch();
        for number in 1..=3 {
            assert!(asked.ask(&id(number), Some(batch)));
        }
        assert!(!asked.ask(&id(2), Some(batch)), "an id twice");
        asked.add(batch, b"x".to_vec());
        assert!(asked.ask(&id(9), None));
        assert_eq!(asked.answer(&id(1), b"1".to_vec()), None, "it is still read");
        assert_eq!(asked.end_batch(batch), None);
        assert_eq!(asked.answer(&id(9), b"9".to_vec()).as_deref(), Some(&b"9"[..]));
        assert_eq!(asked.give_up(&id(2)), None);
        assert_eq!(asked.answer(&id(3), b"3".to_vec()).as_deref(), Some(&b"[x,1,3]"[..]));
        // What comes after all is a line of its own, and ids are free again.
        assert_eq!(asked.answer(&id(2), b"2".to_vec()).as_deref(), Some(&b"2"[..]));
        assert!(asked.ask(&id(1), None) && asked.batches.is_empty() && asked.under_way.len() == 1);
    }

    #[test]
    fn a_batch_that_asks_nothing_is_not_answered() {
        let mut asked = Asked::default();
        let told = asked.begin_batch();
        assert_eq!(asked.end_batch(told), None);
        let given_up = asked.begin_batch();
        asked.ask(&id(1), Some(given_up));
        assert_eq!(asked.end_batch(given_up), None);
        assert_eq!(asked.give_up(&id(1)), None);
        assert!(asked.batches.is_empty() && asked.under_way.is_empty());
    }
}
