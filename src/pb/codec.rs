//! Codec of gRPC messages: prost with small initial buffers.
//!
//! tonic allocates its buffers when a call opens and keeps them until the call ends. With tonic's default of 8 KiB, these buffers
//! take most of the memory of a stream that is nearly always idle. Buffers of 256 B grow when a message needs more.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Returns settings with a small initial size, and tonic's default threshold for a flush.
fn buffers() -> BufferSettings {
    BufferSettings::new(256, 32 * 1024)
}

/// Codec that encodes `T` and decodes `U` with prost, with small initial buffers.
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
