//! Kafka's primitive types on its wire: the reader and the writer of messages.
//!
//! **Invariant**: a reader allocates at most [`MEMORY_PER_BYTE`] bytes for each byte it was given, whatever the bytes
//! claim: the memory of an array is reserved only after its count was held against what is left to read and against that
//! budget. Numbers are big-endian. In flexible versions (KIP-482) lengths are varints of length + 1, and each struct ends
//! with its tagged fields.
//!
//! Pure; used by `messages` alone, and through it by `kafka` and `client`.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use std::{fmt, io, mem, sync::Arc};

/// What reading may allocate for each byte of input. The densest message that means something, an array of structs whose
/// fields are empty, takes 20.
pub const MEMORY_PER_BYTE: usize = 32;
/// Bytes from this length on are sent from where they lie instead of being copied behind the fields before them.
const SHARED_FROM: usize = 1024;
/// The first bytes of a frame, which say how many follow.
const FRAME_LENGTH_BYTES: usize = 4;

/// A UUID as its 16 bytes; all zero stands for none.
pub type Uuid = [u8; 16];

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end within a field.
    #[error("the message is cut off")]
    Truncated,
    /// More bytes than the message has fields.
    #[error("bytes follow the message's last field")]
    TrailingBytes,
    /// A count that the bytes left cannot hold, or that would take too much memory.
    #[error("the message counts more elements than its bytes can hold")]
    TooMany,
    /// A negative length, or an overlong varint.
    #[error("a length in the message is out of range")]
    Length,
    /// Text that is not UTF-8.
    #[error("a text in the message is not UTF-8")]
    NotUtf8,
    /// Null where the protocol has none.
    #[error("a field of the message is null and may not be")]
    Null,
    /// A tagged field whose size is not its own.
    #[error("a tagged field's size is not what its value takes")]
    TagSize,
    /// No such request, or not in this version.
    #[error("version {version} of request {api_key} is not supported")]
    Unsupported {
        /// The request's key.
        api_key: i16,
        /// The version asked for.
        version: i16,
    },
}

/// Takes a message's fields off the front of its bytes.
pub struct Reader {
    bytes: Bytes,
    budget: usize,
    version: i16,
    flexible: bool,
}

impl Reader {
    /// A reader of one message in one version.
    #[must_use]
    pub fn new(bytes: Bytes, version: i16, flexible: bool) -> Self {
        let budget = bytes.len().saturating_mul(MEMORY_PER_BYTE);
        Self { bytes, budget, version, flexible }
    }

    /// The message's version.
    #[must_use]
    pub const fn version(&self) -> i16 {
        self.version
    }

    /// Whether the version is a flexible one.
    #[must_use]
    pub const fn is_flexible(&self) -> bool {
        self.flexible
    }

    /// Bytes that were not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Says that the message ends here.
    ///
    /// # Errors
    /// [`WireError::TrailingBytes`].
    pub fn finish(&self) -> Result<(), WireError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(WireError::TrailingBytes) }
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let taken = *self.bytes.first_chunk().ok_or(WireError::Truncated)?;
        self.bytes.advance(N);
        Ok(taken)
    }

    /// The next `len` bytes, shared with the message's.
    fn share(&mut self, len: usize) -> Result<Bytes, WireError> {
        if len > self.bytes.len() {
            return Err(WireError::Truncated);
        }
        Ok(self.bytes.split_to(len))
    }

    fn charge(&mut self, bytes: usize) -> Result<(), WireError> {
        self.budget = self.budget.checked_sub(bytes).ok_or(WireError::TooMany)?;
        Ok(())
    }

    pub(super) fn unsigned_varint(&mut self) -> Result<u32, WireError> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| WireError::Length);
            }
        }
        Err(WireError::Length)
    }

    /// A length or a count before what it counts; `None` is null.
    fn length(&mut self, short: bool) -> Result<Option<usize>, WireError> {
        let length = if self.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else if short {
            i64::from(i16::from_be_bytes(self.take()?))
        } else {
            i64::from(i32::from_be_bytes(self.take()?))
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| WireError::Length),
        }
    }

    /// Reads a tagged field of `size` bytes.
    pub(super) fn tagged<T: Wire>(&mut self, size: u32) -> Result<T, WireError> {
        let before = self.bytes.len();
        let value = T::read(self)?;
        if before - self.bytes.len() == size as usize { Ok(value) } else { Err(WireError::TagSize) }
    }

    /// Passes over a tagged field that this version of ours does not know.
    pub(super) fn skip(&mut self, size: u32) -> Result<(), WireError> {
        self.share(size as usize).map(drop)
    }

    /// Passes over a struct's tagged fields, of which we know none.
    pub(super) fn skip_tagged(&mut self) -> Result<(), WireError> {
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let size = self.unsigned_varint()?;
            self.skip(size)?;
        }
        Ok(())
    }
}

/// Puts a message's fields into a frame.
pub struct Writer {
    /// What lies before the first shared part; it begins with the frame's length.
    first: Option<BytesMut>,
    /// Whole parts after it.
    parts: Vec<Piece>,
    /// What is being written.
    open: BytesMut,
    version: i16,
    flexible: bool,
}

impl Writer {
    /// A writer of a frame with one message in one version.
    #[must_use]
    pub fn new(version: i16, flexible: bool) -> Self {
        let mut open = BytesMut::with_capacity(512);
        open.put_i32(0); // the length, at the end
        Self { first: None, parts: Vec::new(), open, version, flexible }
    }

    /// The message's version.
    #[must_use]
    pub const fn version(&self) -> i16 {
        self.version
    }

    /// Whether the version is a flexible one.
    #[must_use]
    pub const fn is_flexible(&self) -> bool {
        self.flexible
    }

    pub(super) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.open.put_slice(bytes);
    }

    fn put_shared(&mut self, bytes: &Bytes) {
        if bytes.len() < SHARED_FROM {
            return self.put(bytes);
        }
        self.put_piece(Piece::Memory(bytes.clone()));
    }

    fn put_piece(&mut self, piece: Piece) {
        let open = self.open.split();
        match self.first {
            None => self.first = Some(open),
            Some(_) if open.is_empty() => {}
            Some(_) => self.parts.push(Piece::Memory(open.freeze())),
        }
        self.parts.push(piece);
    }

    pub(super) fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.open.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.open.put_u8(value as u8);
    }

    fn length(&mut self, length: Option<usize>, short: bool) {
        let length = length.map_or(-1, |length| i32::try_from(length).unwrap_or(i32::MAX));
        if self.flexible {
            self.unsigned_varint((length + 1) as u32);
        } else if short {
            self.open.put_i16(length as i16);
        } else {
            self.open.put_i32(length);
        }
    }

    /// Writes one tagged field.
    pub(super) fn tagged<T: Wire>(&mut self, tag: u32, value: &T) {
        let mut inner = Self { first: None, parts: Vec::new(), open: BytesMut::new(), ..*self };
        value.write(&mut inner);
        let pieces = inner.into_pieces();
        self.unsigned_varint(tag);
        self.unsigned_varint(pieces.iter().map(Piece::len).sum::<usize>() as u32);
        pieces.into_iter().for_each(|piece| self.put(&piece.into_memory()));
    }

    fn into_pieces(self) -> Vec<Piece> {
        let first = self.first.map(|first| Piece::Memory(first.freeze()));
        let last = (!self.open.is_empty()).then(|| Piece::Memory(self.open.freeze()));
        first.into_iter().chain(self.parts).chain(last).collect()
    }

    /// The whole frame, its length in front.
    #[must_use]
    pub fn finish(mut self) -> Frame {
        let shared: usize = self.parts.iter().map(Piece::len).sum();
        let len = self.first.as_ref().map_or(0, BytesMut::len) + shared + self.open.len();
        let length = i32::try_from(len - FRAME_LENGTH_BYTES).unwrap_or(i32::MAX);
        let start = self.first.as_mut().unwrap_or(&mut self.open);
        start[..FRAME_LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        Frame { len, pieces: self.into_pieces() }
    }
}

/// Bytes that lie elsewhere, such as in a file, until they are sent.
#[allow(clippy::len_without_is_empty)] // there are never none
pub trait StoredBytes: Send + Sync + 'static {
    /// How many there are.
    fn len(&self) -> usize;

    /// Fills the buffer with those from `at` on.
    fn read<'a>(&'a self, at: usize, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<()>>;
}

/// A part of a frame.
#[derive(Clone)]
pub enum Piece {
    /// In memory, shared with who holds it too.
    Memory(Bytes),
    /// To be read when it is sent.
    Stored(Arc<dyn StoredBytes>),
}

impl Piece {
    /// Bytes of it.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // none is empty
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::Stored(stored) => stored.len(),
        }
    }

    fn into_memory(self) -> Bytes {
        match self {
            Self::Memory(bytes) => bytes,
            Self::Stored(_) => panic!("what is read here was made in memory"),
        }
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(bytes) => bytes.fmt(f),
            Self::Stored(stored) => write!(f, "{} bytes stored", stored.len()),
        }
    }
}

/// A whole frame to send, in parts of which the large ones share the memory of what they came from.
#[derive(Debug, Clone)]
pub struct Frame {
    len: usize,
    pieces: Vec<Piece>,
}

impl Frame {
    /// Bytes of it, the length in front included.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // it always has its length
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Its pieces in order, none empty.
    #[must_use]
    pub fn into_pieces(self) -> Vec<Piece> {
        self.pieces
    }

    /// The same of a frame that is all in memory, as every one is that was not made from stored records.
    ///
    /// # Panics
    /// If a part of it is not in memory.
    #[must_use]
    pub fn into_parts(self) -> Vec<Bytes> {
        self.pieces.into_iter().map(Piece::into_memory).collect()
    }

    /// What follows the length, in one piece: a copy, for tests and small frames.
    ///
    /// # Panics
    /// As [`Self::into_parts`].
    #[must_use]
    pub fn body(&self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.len);
        self.pieces.iter().for_each(|piece| all.put_slice(&piece.clone().into_memory()));
        all.advance(FRAME_LENGTH_BYTES);
        all.freeze()
    }
}

/// A value with a form on the wire.
pub trait Wire: Sized {
    /// Takes it off the front.
    ///
    /// # Errors
    /// [`WireError`]: what does not fit.
    fn read(reader: &mut Reader) -> Result<Self, WireError>;
    /// Appends it.
    fn write(&self, writer: &mut Writer);
}

/// A value that may be null on the wire.
pub trait Nullable: Sized {
    /// Takes it, or a null, off the front.
    ///
    /// # Errors
    /// [`WireError`]: what does not fit.
    fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, WireError>;
    /// Appends it, or a null.
    fn write_nullable(value: Option<&Self>, writer: &mut Writer);
}

impl<T: Nullable> Wire for Option<T> {
    fn read(reader: &mut Reader) -> Result<Self, WireError> {
        T::read_nullable(reader)
    }

    fn write(&self, writer: &mut Writer) {
        T::write_nullable(self.as_ref(), writer);
    }
}

macro_rules! number {
    ($($ty:ty),*) => {$(
        impl Wire for $ty {
            fn read(reader: &mut Reader) -> Result<Self, WireError> {
                reader.take().map(Self::from_be_bytes)
            }

            fn write(&self, writer: &mut Writer) {
                writer.put(&self.to_be_bytes());
            }
        }
    )*};
}
number!(i8, i16, u16, i32, u32, i64, f64);

impl Wire for bool {
    fn read(reader: &mut Reader) -> Result<Self, WireError> {
        reader.take::<1>().map(|[byte]| byte != 0)
    }

    fn write(&self, writer: &mut Writer) {
        writer.put(&[u8::from(*self)]);
    }
}

impl Wire for Uuid {
    fn read(reader: &mut Reader) -> Result<Self, WireError> {
        reader.take()
    }

    fn write(&self, writer: &mut Writer) {
        writer.put(self);
    }
}

/// What may be null, where it may not.
macro_rules! never_null {
    ($ty:ty $(, $generic:ident: $bound:ident)?) => {
        impl $(<$generic: $bound>)? Wire for $ty {
            fn read(reader: &mut Reader) -> Result<Self, WireError> {
                Self::read_nullable(reader)?.ok_or(WireError::Null)
            }

            fn write(&self, writer: &mut Writer) {
                Self::write_nullable(Some(self), writer);
            }
        }
    };
}
never_null!(String);
never_null!(Bytes);
never_null!(RecordBytes);
never_null!(Vec<T>, T: Wire);

impl Nullable for String {
    fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, WireError> {
        let Some(length) = reader.length(true)? else { return Ok(None) };
        let bytes = reader.share(length)?;
        reader.charge(length)?;
        std::str::from_utf8(&bytes).map(|text| Some(text.to_owned())).map_err(|_| WireError::NotUtf8)
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer) {
        // Longer than the old form can say: what can be said of it is more use than a frame that can not be read.
        let limit = if writer.flexible { usize::MAX } else { i16::MAX as usize };
        let text = value.map(|text| &text[..text.floor_char_boundary(limit.min(text.len()))]);
        writer.length(text.map(str::len), true);
        writer.put(text.unwrap_or_default().as_bytes());
    }
}

impl Nullable for Bytes {
    fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, WireError> {
        reader.length(false)?.map(|length| reader.share(length)).transpose()
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer) {
        writer.length(value.map(Self::len), false);
        if let Some(bytes) = value {
            writer.put_shared(bytes);
        }
    }
}

impl<T: Wire> Nullable for Vec<T> {
    fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, WireError> {
        let Some(count) = reader.length(false)? else { return Ok(None) };
        // Every element takes a byte at least.
        if count > reader.remaining() {
            return Err(WireError::TooMany);
        }
        reader.charge(count.saturating_mul(mem::size_of::<T>()))?;
        let mut elements = Self::with_capacity(count);
        for _ in 0..count {
            elements.push(T::read(reader)?);
        }
        Ok(Some(elements))
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer) {
        writer.length(value.map(Self::len), false);
        value.into_iter().flatten().for_each(|element| element.write(writer));
    }
}

/// Record batches one after another, as Produce and Fetch carry them: never parsed here, never copied.
#[derive(Debug, Clone, Default)]
pub struct RecordBytes(Vec<Piece>);

impl RecordBytes {
    /// Whole batches, to be sent from where they lie.
    #[must_use]
    pub fn new(batches: Vec<Bytes>) -> Self {
        Self(batches.into_iter().map(Piece::Memory).collect())
    }

    /// The same, of which some may not be in memory yet.
    #[must_use]
    pub const fn stored(pieces: Vec<Piece>) -> Self {
        Self(pieces)
    }

    /// Bytes of them together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(Piece::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them in one piece; a copy only if there are several pieces.
    ///
    /// # Panics
    /// If some are not in memory, as all are that came in a message.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        if self.0.len() == 1 {
            return self.0.swap_remove(0).into_memory();
        }
        let mut all = BytesMut::with_capacity(self.len());
        self.0.into_iter().for_each(|piece| all.put_slice(&piece.into_memory()));
        all.freeze()
    }
}

impl PartialEq for RecordBytes {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.clone().into_bytes() == other.clone().into_bytes()
    }
}

impl Nullable for RecordBytes {
    fn read_nullable(reader: &mut Reader) -> Result<Option<Self>, WireError> {
        let Some(bytes) = Bytes::read_nullable(reader)? else { return Ok(None) };
        reader.charge(mem::size_of::<Piece>())?;
        Ok(Some(Self(vec![Piece::Memory(bytes)])))
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer) {
        writer.length(value.map(Self::len), false);
        for piece in value.into_iter().flat_map(|records| &records.0) {
            match piece {
                Piece::Memory(bytes) => writer.put_shared(bytes),
                stored @ Piece::Stored(_) => writer.put_piece(stored.clone()),
            }
        }
    }
}
