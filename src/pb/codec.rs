//! How messages become bytes: prost with small buffers, and a way to send what was encoded before.
//!
//! tonic reserves its buffers when a call opens and keeps them while it lasts. For a stream that is idle nearly
//! always, the 8 KiB of its default are most of what the stream costs; 256 B grow when they must.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Starts small; flushes at tonic's usual threshold.
fn buffers() -> BufferSettings {
    BufferSettings::new(256, 32 * 1024)
}

/// prost, with small buffers.
#[derive(Debug)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(buffers())
    }
}

#[cfg(feature = "server")]
pub use encoded::{Encoded, EncodedAnswers};

#[cfg(feature = "server")]
mod encoded {
    use super::{BufferSettings, Codec, Message, PhantomData, ProstCodec, Status, buffers};
    use bytes::{BufMut, Bytes};
    use tonic::codec::{EncodeBuf, Encoder};

    /// One message whose parts were encoded before: they are sent one after the other.
    #[derive(Debug, Default)]
    pub struct Encoded(pub Vec<Bytes>);

    /// Reads requests with prost, and answers with [`Encoded`] messages. On the wire nothing is different.
    #[derive(Debug)]
    pub struct EncodedAnswers<T, U>(PhantomData<(T, U)>);

    impl<T, U> Default for EncodedAnswers<T, U> {
        fn default() -> Self {
            Self(PhantomData)
        }
    }

    impl<U: Message + Default + Send + 'static> Codec for EncodedAnswers<Encoded, U> {
        type Encode = Encoded;
        type Decode = U;
        type Encoder = Parts;
        type Decoder = <ProstCodec<U, U> as Codec>::Decoder;

        fn encoder(&mut self) -> Self::Encoder {
            Parts
        }

        fn decoder(&mut self) -> Self::Decoder {
            ProstCodec::<U, U>::raw_decoder(buffers())
        }
    }

    /// Puts ready parts on the wire.
    #[derive(Debug)]
    pub struct Parts;

    impl Encoder for Parts {
        type Item = Encoded;
        type Error = Status;

        fn encode(&mut self, message: Encoded, wire: &mut EncodeBuf<'_>) -> Result<(), Status> {
            for part in message.0 {
                wire.put(part);
            }
            Ok(())
        }

        fn buffer_settings(&self) -> BufferSettings {
            buffers()
        }
    }
}
