"""Geometry and images."""

import jax
import jax.numpy as jnp
import numpy as np

from people.catalogue import case, forward

# Geometry and images


@case(argnums=(0, 1))
def linear_interpolation(draw):
    knots = np.linspace(0, 1, 6)

    def loss(x, values):
        return jnp.sum(jnp.interp(x, knots, values) ** 2)

    return loss, (draw.uniform(0.02, 0.98, 10), draw.normal(6))


@case(argnums=(0, 1))
def affine_warp_of_an_image(draw):
    grid = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij")).reshape(2, -1)

    def loss(matrix, image):
        where = matrix[:, :2] @ grid + matrix[:, 2:]
        warped = jax.scipy.ndimage.map_coordinates(image, list(where), order=1, mode="nearest")
        return jnp.mean((warped - image.ravel()) ** 2)

    return loss, (draw.array([[0.953, 0.1107, 0.33], [-0.0803, 1.041, -0.41]]), draw.normal(8, 8))


@case
def optical_flow(draw):
    first, second = draw.normal(7, 7), draw.normal(7, 7)

    def loss(flow):
        rows, columns = jnp.indices((7, 7)) + flow
        r, c = jnp.clip(jnp.floor(rows), 0, 5).astype(int), jnp.clip(jnp.floor(columns), 0, 5).astype(int)
        dr, dc = rows - r, columns - c
        top = second[r, c] * (1 - dc) + second[r, c + 1] * dc
        bottom = second[r + 1, c] * (1 - dc) + second[r + 1, c + 1] * dc
        error = top * (1 - dr) + bottom * dr - first
        return jnp.mean(jnp.sqrt(error**2 + 1e-3)) + 0.1 * jnp.mean(jnp.diff(flow, axis=1) ** 2)

    return loss, (draw.uniform(0.1, 0.9, 2, 7, 7),)


@case
def natural_cubic_spline(draw):
    t, x = jnp.linspace(0.03, 0.97, 20), jnp.linspace(0, 1, 7)

    def loss(y):
        h = x[1] - x[0]
        system = np.diag(np.full(5, 4.0)) + np.diag(np.ones(4), 1) + np.diag(np.ones(4), -1)
        bend = jnp.pad(jnp.linalg.solve(system, 6 * jnp.diff(y, 2) / h**2), 1)
        i = jnp.clip(jnp.searchsorted(x, t) - 1, 0, 5)
        a, b = (x[i + 1] - t) / h, (t - x[i]) / h
        s = a * y[i] + b * y[i + 1] + ((a**3 - a) * bend[i] + (b**3 - b) * bend[i + 1]) * h**2 / 6
        return jnp.mean((s - jnp.sin(6 * t)) ** 2)

    return loss, (draw.normal(7),)


@case
def bezier_curve_length(draw):
    t = np.linspace(0, 1, 30)[:, None]

    def length(points):
        while points.shape[0] > 1:
            points = (
                (1 - t) * points[:-1, None] + t * points[1:, None]
                if points.ndim == 2
                else ((1 - t) * points[:-1] + t * points[1:])
            )
        return jnp.sum(jnp.linalg.norm(jnp.diff(points[0], axis=0), axis=1))

    return length, (draw.normal(4, 2),)


@case
def volume_rendering(draw):
    depths = np.linspace(0.1, 2, 16)

    def loss(params, rays):
        x = rays[:, None] * depths[:, None]
        out = forward(params, x, jax.nn.relu)
        alpha = 1 - jnp.exp(-jax.nn.softplus(out[..., 0]) * 0.12)
        through = jnp.cumprod(1 - alpha + 1e-10, axis=1)
        weights = alpha * jnp.concatenate([jnp.ones_like(through[:, :1]), through[:, :-1]], axis=1)
        return jnp.mean((jnp.sum(weights * jax.nn.sigmoid(out[..., 1]), axis=1) - 0.3) ** 2)

    return loss, (draw.layers(3, 8, 2), draw.normal(5, 3))


def rodrigues(w):
    angle = jnp.linalg.norm(w)
    x, y, z = w / angle
    k = jnp.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return jnp.eye(3) + jnp.sin(angle) * k + (1 - jnp.cos(angle)) * k @ k


@case(argnums=(0, 1), notes="a vector of residuals")
def bundle_adjustment(draw):
    seen = draw.normal(3, 4, 2, scale=0.1)

    def residuals(cameras, points):
        def view(camera):
            local = points @ rodrigues(camera[:3]).T + camera[3:6]
            plane = local[:, :2] / local[:, 2:]
            r2 = jnp.sum(plane**2, axis=1, keepdims=True)
            return camera[6] * plane * (1 + 0.05 * r2)

        return (jax.vmap(view)(cameras) - seen).ravel()

    pose = np.concatenate(
        [
            0.3 * draw.rng.standard_normal((3, 3)),
            [[0, 0, 4]] + 0.1 * draw.rng.standard_normal((3, 3)),
            np.ones((3, 1)),
        ],
        axis=1,
    )
    return residuals, (draw.array(pose), draw.normal(4, 3))


@case
def pose_graph(draw):
    measured = draw.normal(4, 3, scale=0.5)

    def loss(poses):
        turn = jax.vmap(rodrigues)(poses[:, :3])
        relative = jnp.einsum("nij,nik->njk", turn[:-1], turn[1:])
        angle = jnp.arccos(jnp.clip((jnp.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1))
        moved = jnp.einsum("nij,ni->nj", turn[:-1], jnp.diff(poses[:, 3:], axis=0))
        return jnp.sum(angle**2) + jnp.sum((moved - measured) ** 2)

    return loss, (draw.normal(5, 6, scale=0.6),)


@case(argnums=(0, 1))
def closest_points(draw):
    cloud, normals = draw.normal(9, 3), draw.normal(9, 3)

    def loss(pose, points):
        moved = points @ rodrigues(pose[:3]).T + pose[3:]
        nearest = jnp.argmin(jnp.sum((moved[:, None] - cloud) ** 2, -1), axis=1)
        return jnp.sum(jnp.sum((moved - cloud[nearest]) * normals[nearest], axis=1) ** 2)

    return loss, (draw.normal(6, scale=0.3), draw.normal(5, 3))


@case
def great_circle_distance(draw):
    cities = draw.uniform(-1, 1, 5, 2)

    def total(place):
        d = cities - place
        a = jnp.sin(d[:, 0] / 2) ** 2 + jnp.cos(place[0]) * jnp.cos(cities[:, 0]) * jnp.sin(d[:, 1] / 2) ** 2
        bearing = jnp.arctan2(d[:, 1], d[:, 0])
        return jnp.sum(2 * 6371 * jnp.arcsin(jnp.sqrt(a))) + jnp.sum(jnp.sin(bearing))

    return total, (draw.array([0.4, 0.1]),)


@case
def soft_silhouette(draw):
    pixels = np.stack(np.meshgrid(np.linspace(-1, 1, 8), np.linspace(-1, 1, 8)), -1).reshape(-1, 2)
    aim = draw.array(np.hypot(*pixels.T) < 0.6)

    def loss(corners):
        sides = jnp.roll(corners, -1, axis=0) - corners
        offset = pixels[:, None] - corners
        inside = sides[:, 0] * offset[..., 1] - sides[:, 1] * offset[..., 0]
        return jnp.mean((jnp.prod(jax.nn.sigmoid(inside / 0.1), axis=1) - aim) ** 2)

    return loss, (draw.array([[-0.8, -0.6], [0.9, -0.7], [0.1, 0.8]]),)


@case
def total_variation_denoising(draw):
    noisy = draw.normal(8, 8)

    def loss(image):
        edges = jnp.abs(jnp.diff(image, axis=0)).sum() + jnp.abs(jnp.diff(image, axis=1)).sum()
        return 0.5 * jnp.sum((image - noisy) ** 2) + 0.2 * edges

    return loss, (draw.normal(8, 8),)


@case
def gaussian_blur_and_sharpness(draw):
    image = draw.uniform(0, 1, 10, 10)

    def loss(log_width):
        t = jnp.arange(-2, 3)
        kernel = jnp.exp(-0.5 * (t / jnp.exp(log_width)) ** 2)
        kernel = kernel / kernel.sum()
        blurred = jax.scipy.signal.convolve2d(image, jnp.outer(kernel, kernel), mode="valid")
        return jnp.mean(jnp.sum(jnp.stack(jnp.gradient(blurred)) ** 2, axis=0))

    return loss, (draw.array(0.2),)
