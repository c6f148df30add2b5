//! Numbers out of raw structures. Beyond the end there are zeros, so that no offset can panic.

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end));
    found.and_then(|slice| slice.try_into().ok()).unwrap_or([0; N])
}

pub(super) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// A number of which two halves lie in different places.
pub(super) fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Writes `value` at `at`; nothing when it does not fit.
pub(super) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(slot) = at.checked_add(N).and_then(|end| bytes.get_mut(at..end)) {
        slot.copy_from_slice(&value);
    }
}

/// CRC-32C as ext4 has it: a seed, and no inversion at either end.
pub(super) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_end_there_are_zeros() {
        assert_eq!(le32(&[1, 2, 3], 0), 0);
        assert_eq!(le16(&[1, 2, 3], 1), 0x0302);
        assert_eq!(be16(&[1, 2, 3], 1), 0x0203);
        assert_eq!(be32(&[1], usize::MAX), 0);
        let mut bytes = [0; 3];
        put(&mut bytes, 2, [9, 9]);
        assert_eq!(bytes, [0; 3]);
    }

    #[test]
    fn the_checksum_has_no_inversion() {
        // The check value of CRC-32C is e3069283 with inversion at both ends.
        assert_eq!(!crc(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc(crc(!0, b"1234"), b"56789"), crc(!0, b"123456789"));
    }
}
