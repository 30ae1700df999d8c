"""Linear algebra and signals."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from people.catalogue import case

# Linear algebra


def positive(draw, n):
    a = draw.normal(n, n)
    return a @ a.T / n + jnp.eye(n, dtype=draw.dtype)


@case(argnums=(0, 1))
def linear_solve(draw):
    return lambda a, b: jnp.sum(jnp.linalg.solve(a, b) ** 2), (positive(draw, 5), draw.normal(5, 2))


@case
def inverse_and_trace(draw):
    return lambda a: jnp.trace(jnp.linalg.inv(a) @ a.T), (positive(draw, 4) + draw.normal(4, 4, scale=0.2),)


@case
def log_determinant(draw):
    def f(a):
        sign, log_det = jnp.linalg.slogdet(a)
        return sign * log_det + jnp.linalg.det(a) / 10

    return f, (draw.normal(5, 5),)


@case
def eigenvalues_of_a_symmetric_matrix(draw):
    def f(a):
        values, vectors = jnp.linalg.eigh((a + a.T) / 2)
        return jnp.sum(jnp.exp(-values)) + (vectors[:, 0] ** 2) @ jnp.arange(5.0)

    return f, (draw.array(np.diag([1.0, 2, 4, 7, 11])) + draw.normal(5, 5, scale=0.3),)


@case
def eigenvalues_of_a_general_matrix(draw):
    def f(a):
        values = jnp.linalg.eigvals(a)
        return jnp.sum(jnp.abs(values) ** 2) + jnp.max(jnp.real(values))

    return f, (draw.array([[2.0, 1, 0, 0], [-1, 2, 0.3, 0], [0.2, 0, -1, 0.4], [0, 0.1, 0.3, 4]]),)


@case
def singular_values(draw):
    def f(a):
        s = jnp.linalg.svd(a, compute_uv=False)
        return s.sum() + jnp.log(s[0] / s[-1])

    return f, (draw.normal(6, 4),)


@case
def procrustes_rotation(draw):
    x = draw.normal(8, 3)

    def f(y):
        u, _, vt = jnp.linalg.svd(x.T @ y)
        return jnp.sum((x @ (u @ vt) - y) ** 2)

    return f, (draw.normal(8, 3),)


@case
def qr_of_a_tall_matrix(draw):
    def f(a):
        q, r = jnp.linalg.qr(a)
        return jnp.sum(jnp.log(jnp.abs(jnp.diag(r)))) + jnp.sum(q[0] ** 2)

    return f, (draw.normal(6, 3),)


@case(argnums=(0, 1))
def least_squares(draw):
    def f(a, b):
        return jnp.sum(jnp.linalg.lstsq(a, b)[0] ** 3)

    return f, (draw.normal(8, 3), draw.normal(8))


@case
def matrix_exponential(draw):
    return lambda a: jnp.sum(jax.scipy.linalg.expm(a) ** 2), (draw.normal(4, 4, scale=0.5),)


@case
def pseudoinverse(draw):
    return lambda a: jnp.sum(jnp.sin(jnp.linalg.pinv(a))), (draw.normal(5, 3),)


@case
def cholesky_solve_and_wishart(draw):
    b = draw.normal(5)

    def f(a):
        factor = jax.scipy.linalg.cho_factor(a @ a.T + jnp.eye(5))
        return b @ jax.scipy.linalg.cho_solve(factor, b) + jnp.sum(jnp.log(jnp.abs(jnp.diag(factor[0]))))

    return f, (draw.normal(5, 5),)


@case
def matrix_power_and_norms(draw):
    def f(a):
        walk = jnp.linalg.matrix_power(jax.nn.softmax(a, axis=1), 5)
        return jnp.linalg.norm(walk) + jnp.linalg.norm(a, 2) + jnp.linalg.norm(a, 1)

    return f, (draw.normal(4, 4),)


@case(argnums=(0, 1))
def triangular_solve_and_kronecker(draw):
    b = draw.normal(6)

    def f(a, c):
        x = jax.scipy.linalg.solve_triangular(a, b[:3], lower=True)
        return x @ x + jnp.sum(jnp.kron(a, c) @ b) ** 2

    return f, (jnp.tril(draw.normal(3, 3)) + 2 * jnp.eye(3, dtype=draw.dtype), draw.normal(2, 2))


@case(argnums=(0, 1, 2))
def thomas_algorithm(draw):
    d = draw.normal(12)

    def f(lower, diagonal, upper):
        def down(carry, row):
            c, y = carry
            a, b, u, rhs = row
            scale = 1 / (b - a * c)
            return (u * scale, (rhs - a * y) * scale), (u * scale, (rhs - a * y) * scale)

        zero = jnp.zeros((), d.dtype)
        _, (c, y) = lax.scan(down, (zero, zero), (lower, diagonal, upper, d))

        def up(x, row):
            x = row[1] - row[0] * x
            return x, x

        return jnp.sum(lax.scan(up, zero, (c, y), reverse=True)[1] ** 2)

    return f, (draw.normal(12), 4 + draw.normal(12, scale=0.3), draw.normal(12))


@case
def conjugate_gradients(draw):
    b = draw.normal(6)

    def f(a):
        matrix = a @ a.T + jnp.eye(6)
        x, _ = jax.scipy.sparse.linalg.cg(lambda v: matrix @ v, b, tol=1e-6)
        return jnp.sum(x**2)

    return f, (draw.normal(6, 6, scale=0.4),)


@case(argnums=(0, 1))
def custom_linear_solve(draw):
    b = draw.normal(5)

    def f(diagonal, u):
        def matvec(x):
            return diagonal * x + u * (u @ x)

        def solver(_, rhs):
            plain = rhs / diagonal
            return plain - (u / diagonal) * (u @ plain) / (1 + u @ (u / diagonal))

        return jnp.sum(lax.custom_linear_solve(matvec, b, solver, symmetric=True) ** 2)

    return f, (draw.uniform(1, 3, 5), draw.normal(5))


@case
def sparse_matrix_of_jax(draw):
    from jax.experimental import sparse

    indices, x = np.array([[0, 1], [1, 3], [2, 0], [3, 3], [0, 2]]), draw.normal(4)

    def f(data):
        y = sparse.BCOO((data, indices), shape=(4, 4)) @ x
        return jnp.sum(jnp.exp(y))

    return f, (draw.normal(5),)


@case
def tensor_train_by_einsum(draw):
    target = draw.normal(3, 4, 3)

    def loss(cores):
        return jnp.sum((jnp.einsum("ia,ajb,bk->ijk", *cores) - target) ** 2)

    return loss, ((draw.normal(3, 2), draw.normal(2, 4, 2), draw.normal(2, 3)),)


@case
def cayley_rotation(draw):
    x = draw.normal(4, 3)

    def f(a):
        skew = jnp.triu(a, 1) - jnp.triu(a, 1).T
        rotation = jnp.linalg.solve(jnp.eye(4) + skew, jnp.eye(4) - skew)
        return jnp.sum(jnp.max(rotation @ x, axis=0))

    return f, (draw.normal(4, 4),)


# Signals


@case
def spectral_loss(draw):
    aim = jnp.abs(jnp.fft.rfft(draw.normal(32)))

    def loss(signal):
        spectrum = jnp.abs(jnp.fft.rfft(signal))
        return jnp.mean((spectrum - aim) ** 2) + jnp.mean(jnp.abs(jnp.log(spectrum) - jnp.log(aim)))

    return loss, (draw.normal(32),)


@case
def convolution_by_fft(draw):
    signal = draw.normal(40)

    def loss(kernel):
        direct = jnp.convolve(signal, kernel, mode="same")
        return jnp.sum(jax.scipy.signal.fftconvolve(signal, kernel, mode="same") * jnp.tanh(direct))

    return loss, (draw.normal(7),)


@case
def mel_spectrogram_loss(draw):
    frames, window = np.arange(0, 48, 8)[:, None] + np.arange(16), np.hanning(16)
    bank, aim = draw.uniform(0, 1, 9, 5), draw.uniform(-2, 2, 6, 5)

    def loss(audio):
        power = jnp.abs(jnp.fft.rfft(audio[frames] * window)) ** 2
        return jnp.mean(jnp.abs(jnp.log(power @ bank + 1e-6) - aim))

    return loss, (draw.normal(64),)


@case
def short_time_fourier_transform(draw):
    def loss(audio):
        _, _, z = jax.scipy.signal.stft(audio, nperseg=16)
        return jnp.sum(jnp.abs(z[1:-1]) ** 2 * jnp.arange(1, 8)[:, None])

    return loss, (draw.normal(64),)


@case
def haar_wavelets(draw):
    def loss(signal):
        details, low = [], signal
        while low.size > 1:
            low, high = (low[::2] + low[1::2]) / jnp.sqrt(2), (low[::2] - low[1::2]) / jnp.sqrt(2)
            details.append(high)
        return sum(jnp.sum(jnp.sqrt(d**2 + 1e-2)) for d in details) + low[0] ** 2

    return loss, (draw.normal(32),)


@case(argnums=(0, 1))
def biquad_filter_in_scan(draw):
    audio = draw.normal(50)

    def loss(b, a):
        def step(z, x):
            y = b[0] * x + z[0]
            return jnp.stack([b[1] * x - a[0] * y + z[1], b[2] * x - a[1] * y]), y

        return jnp.mean(lax.scan(step, jnp.zeros(2, audio.dtype), audio)[1] ** 2)

    return loss, (draw.array([0.2, 0.4, 0.2]), draw.array([-0.6, 0.3]))


@case
def magnetic_resonance_reconstruction(draw):
    mask = draw.rng.uniform(size=(8, 8)) < 0.6
    measured = jnp.fft.fft2(draw.normal(8, 8)) * mask

    def loss(image):
        error = jnp.fft.fft2(image, norm="ortho") * mask - measured / 8
        smooth = jnp.sqrt(jnp.diff(image, axis=0)[:, :-1] ** 2 + jnp.diff(image, axis=1)[:-1] ** 2 + 1e-4)
        return jnp.sum(jnp.real(error * error.conj())) + 0.1 * smooth.sum()

    return loss, (draw.normal(8, 8),)


@case
def quantum_circuit(draw):
    flip = jnp.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])

    def energy(angles):
        state = jnp.zeros(4, complex).at[0].set(1)
        for a, b, c, d in angles:
            ry = jnp.array([[jnp.cos(a), -jnp.sin(a)], [jnp.sin(a), jnp.cos(a)]])
            rz = jnp.diag(jnp.exp(1j * jnp.array([-b, b])))
            ry2 = jnp.array([[jnp.cos(c), -jnp.sin(c)], [jnp.sin(c), jnp.cos(c)]])
            state = flip @ (jnp.kron(rz @ ry, ry2 * jnp.exp(1j * d)) @ state)
        operator = jnp.array([[1, 0, 0, 0.5], [0, -1, 0.5j, 0], [0, -0.5j, -1, 0], [0.5, 0, 0, 1]])
        return jnp.real(state.conj() @ operator @ state)

    return energy, (draw.uniform(-2, 2, 3, 4),)


@case
def complex_parameters(draw):
    a = draw.normal(3, 3) + 1j * draw.normal(3, 3)
    z = draw.normal(3) + 1j * draw.normal(3)
    return lambda z: jnp.sum(jnp.abs(jnp.tanh(a @ z)) ** 2) + jnp.real(z[0] ** 2), (z,)


@case
def autocorrelation_and_phase(draw):
    def loss(x):
        correlation = jnp.correlate(x, x, mode="full")[19:]
        phase = jnp.angle(jnp.fft.rfft(x)[1:4])
        return jnp.sum((correlation / correlation[0])[1:5] ** 2) + jnp.sum(jnp.cos(phase))

    return loss, (draw.normal(20),)
