//! A connection's bytes, encrypted or not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The bytes to and from a server.
pub(super) enum Stream {
    Plain(TcpStream),
    Rustls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    #[cfg(feature = "legacy-openssl")]
    OpenSsl(Box<tokio_openssl::SslStream<TcpStream>>),
}

impl Stream {
    /// Whether the server has neither closed the connection nor sent anything that was not read.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [0; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        self.tcp().poll_peek(&mut context, &mut buffer).is_pending()
    }

    /// Writes all bytes if that is possible at once.
    pub fn write_now(&mut self, bytes: &[u8]) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let written = Pin::new(&mut *self).poll_write(&mut context, bytes);
        let is_written = matches!(written, Poll::Ready(Ok(count)) if count == bytes.len());
        is_written && matches!(Pin::new(self).poll_flush(&mut context), Poll::Ready(Ok(())))
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Rustls(stream) => stream.get_ref().0,
            #[cfg(feature = "legacy-openssl")]
            Stream::OpenSsl(stream) => stream.get_ref(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Rustls(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(feature = "legacy-openssl")]
            Stream::OpenSsl(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Rustls(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(feature = "legacy-openssl")]
            Stream::OpenSsl(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Rustls(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(feature = "legacy-openssl")]
            Stream::OpenSsl(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Rustls(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(feature = "legacy-openssl")]
            Stream::OpenSsl(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
