//! Front ends beside keepers that fail.
