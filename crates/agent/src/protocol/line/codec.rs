//! The code of a line: bytes with words between them. Pure: bytes in, bytes and words out.

use bytes::{BufMut, BytesMut};

/// Begins everything that is not a plain byte, and is never anything else, so whatever was cut off before it is noticed
/// and costs nothing that comes after it.
const ESCAPE: u8 = 0x10;
/// After [`ESCAPE`]: the byte [`ESCAPE`].
const ITSELF: u8 = b'D';

/// Length of a nonce.
pub const NONCE_LEN: usize = 8;
/// As digits.
const DIGITS: u8 = 16;
/// Length of a word on the wire.
pub const WORD_LEN: usize = 2 + DIGITS as usize;

/// Names one connection over a line; from a source nobody can guess.
pub type Nonce = [u8; NONCE_LEN];

/// What is said of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Daemon: a connection begins, any older one is over.
    Begin,
    /// Agent: it has begun, nothing of an older one follows.
    Begun,
    /// Both: it is over.
    End,
}

const WORDS: [(Word, u8); 3] = [(Word::Begin, b'S'), (Word::Begun, b'A'), (Word::End, b'E')];

/// What a piece of a line means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Bytes of the connection.
    Data(&'a [u8]),
    /// A word about the connection of this name.
    Word(Word, Nonce),
    /// Something was cut off here, or is no part of the code.
    Broken,
}

/// Appends bytes of a connection.
pub fn encode(mut bytes: &[u8], to: &mut BytesMut) {
    to.reserve(bytes.len());
    while let Some(at) = memchr::memchr(ESCAPE, bytes) {
        let (plain, rest) = bytes.split_at(at);
        to.put_slice(plain);
        to.put_slice(&[ESCAPE, ITSELF]);
        bytes = rest.get(1..).unwrap_or_default();
    }
    to.put_slice(bytes);
}

/// Appends a word.
pub fn encode_word(word: Word, nonce: Nonce, to: &mut BytesMut) {
    let letter = WORDS.iter().find(|(known, _)| *known == word).map_or(0, |(_, letter)| *letter);
    to.put_slice(&[ESCAPE, letter]);
    to.put_slice(format!("{:016x}", u64::from_be_bytes(nonce)).as_bytes());
}

/// Takes a line apart. It keeps at most one unfinished word.
#[derive(Debug, Default)]
pub struct Decoder(State);

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Plain,
    Escaped,
    Digits {
        word: Word,
        seen: u8,
        value: u64,
    },
}

impl Decoder {
    /// Takes from the front of what arrived; `None` when nothing is left of it. What it gives as data is never longer than
    /// what it took.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Event<'a>> {
        loop {
            let (&first, rest) = input.split_first()?;
            let State::Plain = self.0 else {
                *input = rest;
                match self.special(first) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            };
            if first == ESCAPE {
                (self.0, *input) = (State::Escaped, rest);
                continue;
            }
            let plain = memchr::memchr(ESCAPE, input).unwrap_or(input.len());
            let (data, rest) = input.split_at(plain);
            *input = rest;
            return Some(Event::Data(data));
        }
    }

    /// A byte that is not plain.
    fn special<'a>(&mut self, byte: u8) -> Option<Event<'a>> {
        let word = |letter| WORDS.iter().find(|(_, known)| *known == letter).map(|(word, _)| *word);
        let (state, event) = match (self.0, byte) {
            (_, ESCAPE) => (State::Escaped, Some(Event::Broken)),
            (State::Escaped, ITSELF) => (State::Plain, Some(Event::Data(&[ESCAPE]))),
            (State::Escaped, letter) => match word(letter) {
                Some(word) => (State::Digits { word, seen: 0, value: 0 }, None),
                None => (State::Plain, Some(Event::Broken)),
            },
            (State::Digits { word, seen, value }, digit) => match lower_hex(digit) {
                None => (State::Plain, Some(Event::Broken)),
                Some(digit) => {
                    let (seen, value) = (seen + 1, value << 4 | u64::from(digit));
                    if seen == DIGITS {
                        (State::Plain, Some(Event::Word(word, value.to_be_bytes())))
                    } else {
                        (State::Digits { word, seen, value }, None)
                    }
                }
            },
            (State::Plain, _) => (State::Plain, Some(Event::Broken)),
        };
        self.0 = state;
        event
    }
}

fn lower_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Something in a line, with the data of several pieces in one.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Item {
        Data(Vec<u8>),
        Word(Word, Nonce),
        Broken,
    }

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let byte = prop_oneof![Just(ESCAPE), Just(b'S'), Just(b'0'), any::<u8>()];
        let word = prop_oneof![Just(Word::Begin), Just(Word::Begun), Just(Word::End)];
        let item = prop_oneof![
            prop::collection::vec(byte, 1..40).prop_map(Item::Data),
            (word, any::<Nonce>()).prop_map(|(word, nonce)| Item::Word(word, nonce)),
        ];
        prop::collection::vec(item, 0..12)
    }

    fn wire(items: &[Item]) -> BytesMut {
        let mut wire = BytesMut::new();
        for item in items {
            match item {
                Item::Data(bytes) => encode(bytes, &mut wire),
                Item::Word(word, nonce) => encode_word(*word, *nonce, &mut wire),
                Item::Broken => {}
            }
        }
        wire
    }

    /// Everything decoded, from pieces of these lengths over and over.
    fn decode(decoder: &mut Decoder, wire: &[u8], lengths: &[usize]) -> Vec<Item> {
        let mut found = Vec::new();
        let mut rest = wire;
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (mut piece, later) = rest.split_at((*length).min(rest.len()));
            rest = later;
            let mut taken = piece.len();
            while let Some(event) = decoder.next(&mut piece) {
                match event {
                    Event::Data(bytes) => {
                        taken = taken.checked_sub(bytes.len()).expect("data is never longer than what was taken");
                        found.push(Item::Data(bytes.to_vec()));
                    }
                    Event::Word(word, nonce) => found.push(Item::Word(word, nonce)),
                    Event::Broken => found.push(Item::Broken),
                }
            }
        }
        joined(found)
    }

    fn joined(items: Vec<Item>) -> Vec<Item> {
        let mut all: Vec<Item> = Vec::new();
        for item in items {
            match (all.last_mut(), item) {
                (Some(Item::Data(before)), Item::Data(more)) => before.extend(more),
                (_, item) => all.push(item),
            }
        }
        all
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(items in items(), lengths in prop::collection::vec(1_usize..30, 1..6)) {
            let heard = decode(&mut Decoder::default(), &wire(&items), &lengths);
            prop_assert_eq!(heard, joined(items));
        }

        /// Whatever came before, and wherever it was cut: the next word is heard as it was said, and so is all after it.
        #[test]
        fn a_word_is_heard_after_anything(
            before in items(),
            cut in any::<prop::sample::Index>(),
            garbage in prop::collection::vec(any::<u8>(), 0..60),
            nonce in any::<Nonce>(),
            after in items(),
            lengths in prop::collection::vec(1_usize..30, 1..6),
        ) {
            let mut line = wire(&before);
            line.truncate(cut.index(line.len() + 1));
            line.put_slice(&garbage);
            let mut decoder = Decoder::default();
            decode(&mut decoder, &line, &lengths);
            let mut expected = vec![Item::Word(Word::Begin, nonce)];
            expected.extend(after);
            let mut heard = decode(&mut decoder, &wire(&expected), &lengths);
            if heard.first() == Some(&Item::Broken) {
                heard.remove(0);
            }
            prop_assert_eq!(heard, joined(expected));
        }
    }

    #[test]
    fn what_is_no_part_of_the_code_is_told() {
        for (wire, broken) in [(&b"\x10x"[..], 1), (b"\x10\x10", 1), (b"\x10S0123x", 1), (b"\x10SA", 1), (b"ab", 0)] {
            let heard = decode(&mut Decoder::default(), wire, &[1]);
            assert_eq!(heard.iter().filter(|item| **item == Item::Broken).count(), broken, "{wire:?}");
        }
        let mut word = BytesMut::new();
        encode_word(Word::Begin, [0, 1, 2, 3, 0xab, 0xcd, 0xef, 0xff], &mut word);
        assert_eq!(&word[..], b"\x10S00010203abcdefff");
        assert_eq!(word.len(), WORD_LEN);
    }
}
