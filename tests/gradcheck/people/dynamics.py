"""Dynamics: equations solved step by step, filters, games."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from people.catalogue import case, forward

# Dynamics


def runge_kutta(field, y, dt, *args):
    k1 = field(y, *args)
    k2 = field(y + dt / 2 * k1, *args)
    k3 = field(y + dt / 2 * k2, *args)
    k4 = field(y + dt * k3, *args)
    return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def predators(y, theta):
    prey, hunters = y
    a, b, c, d = theta
    return jnp.stack([a * prey - b * prey * hunters, c * prey * hunters - d * hunters])


@case(argnums=(0, 1))
def lotka_volterra_by_runge_kutta(draw):
    def loss(theta, y0):
        def step(y, _):
            y = runge_kutta(predators, y, 0.1, theta)
            return y, y

        _, ys = lax.scan(step, y0, None, length=40)
        return jnp.mean((jnp.log(ys) - 0.2) ** 2)

    return loss, (draw.array([1.1, 0.4, 0.1, 0.4]), draw.array([10.0, 5.0]))


@case(argnums=(0, 1), notes="the adjoint is solved to a tolerance of its own")
def lotka_volterra_by_odeint(draw):
    from jax.experimental.ode import odeint

    times = draw.array([0.0, 1.0, 2.0])

    def loss(theta, y0):
        ys = odeint(lambda y, t, theta: predators(y, theta), y0, times, theta)
        return jnp.sum(ys[-1])

    return loss, (draw.array([1.1, 0.4, 0.1, 0.4]), draw.array([10.0, 5.0]))


def diffrax_adaptive(draw, rtol, atol):
    import diffrax

    def loss(theta):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: predators(y, args)),
            diffrax.Tsit5(),
            t0=0,
            t1=4,
            dt0=0.1,
            y0=draw.array([2.0, 1.0]),
            args=theta,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        )
        return jnp.sum(solution.ys**2)

    return loss, (draw.array([1.1, 0.4, 0.1, 0.4]),)


@case(needs="diffrax", notes="the choice of steps is not differentiated: right to the solver's tolerance")
def diffrax_adaptive_to_1e_minus_6(draw):
    return diffrax_adaptive(draw, 1e-6, 1e-8)


@case(
    needs="diffrax",
    expect="inconclusive",
    notes="f is the solution to 0.3 %; its own slope, in which the choice of steps takes part, is 2.4 % away",
)
def diffrax_adaptive_to_1e_minus_3(draw):
    return diffrax_adaptive(draw, 1e-3, 1e-6)


@case(needs="diffrax")
def diffrax_with_constant_steps(draw):
    import diffrax

    def loss(p):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, p: jnp.tanh(p["w"] @ y + p["b"]) - 0.1 * y),
            diffrax.Heun(),
            t0=0,
            t1=1,
            dt0=0.1,
            y0=draw.array([1.0, -0.5, 0.2]),
            args=p,
            saveat=diffrax.SaveAt(ts=jnp.linspace(0, 1, 4)),
        )
        return jnp.mean(solution.ys**2)

    return loss, ({"w": draw.normal(3, 3), "b": draw.normal(3)},)


@case
def neural_ode(draw):
    y0, aim = draw.normal(4, 2), draw.normal(4, 2)

    def loss(params):
        def field(y):
            return forward(params, y, jnp.tanh)

        y = lax.fori_loop(0, 8, lambda _, y: runge_kutta(field, y, 0.125), y0)
        return jnp.mean((y - aim) ** 2)

    return loss, (draw.layers(2, 6, 2),)


@case(argnums=(0, 1, 2))
def symplectic_pendulum(draw):
    def energy_drift(q0, p0, length):
        def step(state, _):
            q, p = state
            p = p - 0.05 * 9.81 / length * jnp.sin(q)
            q = q + 0.05 * p
            return (q, p), p**2 / 2 - 9.81 / length * jnp.cos(q)

        _, energy = lax.scan(step, (q0, p0), None, length=50)
        return jnp.var(energy) + energy[-1]

    return energy_drift, (draw.array(0.7), draw.array(0.2), draw.array(1.3))


@case(argnums=(0, 1))
def hamiltonian_by_grad_inside(draw):
    centres = draw.normal(3, 2)

    def loss(q, p):
        def potential(q):
            return -jnp.log(jnp.sum(jnp.exp(-jnp.sum((q - centres) ** 2, axis=1))))

        for _ in range(6):
            p = p - 0.1 * jax.grad(potential)(q)
            q = q + 0.2 * p
            p = p - 0.1 * jax.grad(potential)(q)
        return potential(q) + p @ p / 2

    return loss, (draw.normal(2), draw.normal(2))


@case
def lennard_jones_energy(draw):
    def energy(positions):
        i, j = jnp.triu_indices(5, 1)
        d = jnp.linalg.norm(positions[i] - positions[j], axis=1)
        return jnp.sum(4 * ((1 / d) ** 12 - (1 / d) ** 6))

    corners = np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 1.2, 0], [0, 0, 1.15], [1.05, 1.1, 0.2]])
    return energy, (draw.array(corners + 0.05 * draw.rng.standard_normal((5, 3))),)


@case(argnums=(0, 1, 2), notes="round of the minimum image is flat almost everywhere")
def morse_in_a_periodic_box(draw):
    def energy(positions, box, depth):
        delta = positions[:, None] - positions
        delta = delta - box * jnp.round(delta / box)
        i, j = np.triu_indices(6, 1)
        r = jnp.sqrt(jnp.sum(delta[i, j] ** 2, axis=-1))
        return jnp.sum(depth * (1 - jnp.exp(-1.5 * (r - 1))) ** 2)

    return energy, (draw.uniform(0, 3, 6, 3), draw.array(3.0), draw.array(0.8))


@case
def ewald_sum(draw):
    charges, grid = (
        np.array([1.0, -1, 1, -1]),
        np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3),
    )

    def energy(positions):
        i, j = np.triu_indices(4, 1)
        r = jnp.linalg.norm(positions[i] - positions[j], axis=1)
        real = jnp.sum(charges[i] * charges[j] * jax.scipy.special.erfc(r) / r)
        waves = 2 * np.pi / 4 * grid[np.any(grid != 0, axis=1)]
        k2 = np.sum(waves**2, axis=1)
        structure = jnp.exp(1j * positions @ waves.T).T @ charges
        return real + 2 * np.pi / 64 * jnp.sum(np.exp(-k2 / 4) / k2 * jnp.abs(structure) ** 2)

    return energy, (draw.array(np.array([[0.0, 0, 0], [1, 0.2, 0], [0.1, 1, 1], [2, 2, 1.5]]) + 0.1),)


@case(argnums=(0, 1, 2))
def ray_march_to_a_sphere(draw):
    def depth(origin, direction, centre):
        direction = direction / jnp.linalg.norm(direction)
        t = jnp.zeros((), origin.dtype)
        for _ in range(25):
            t = t + jnp.linalg.norm(origin + t * direction - centre) - 1.0
        return t

    return depth, (draw.array([0.1, -0.2, -3.0]), draw.array([0.05, 0.1, 1.0]), draw.array([0.1, 0.0, 0.5]))


@case
def physics_informed_loss(draw):
    times = draw.uniform(0, 2, 10)

    def loss(params):
        def u(t):
            return forward(params, t[None], jnp.tanh)[0]

        du, d2u = jax.grad(u), jax.grad(jax.grad(u))
        residual = jax.vmap(lambda t: d2u(t) + 0.3 * du(t) + 4 * u(t))(times)
        zero = jnp.zeros((), times.dtype)
        return jnp.mean(residual**2) + (u(zero) - 1) ** 2 + du(zero) ** 2

    return loss, (draw.layers(1, 8, 1),)


@case
def hessian_vector_product_inside(draw):
    v = draw.normal(5)

    def curvature(x):
        def inner(x):
            return jnp.sum(jnp.log(jnp.cosh(x))) + jnp.prod(jnp.sin(x))

        return v @ jax.jvp(jax.grad(inner), (x,), (v,))[1]

    return curvature, (draw.normal(5),)


@case(notes="by type: normal noise drawn inside in the default type")
def stochastic_differential_equation(draw):
    key = jax.random.key(3)

    def price(p):
        noise = jax.random.normal(key, (20, 16))

        def step(x, z):
            return x + p["rate"] * (p["mean"] - x) * 0.05 + jnp.exp(p["log_vol"]) * jnp.sqrt(0.05) * z, None

        x, _ = lax.scan(step, jnp.broadcast_to(p["start"], 16), noise)
        return jnp.mean(jnp.maximum(x - 0.2, 0))

    p = {"rate": 1.3, "mean": 0.4, "log_vol": -0.7, "start": 0.3}
    return price, ({name: draw.array(value) for name, value in p.items()},)


@case(argnums=(0, 1))
def heat_equation(draw):
    aim = draw.normal(16)

    def loss(u0, log_conductivity):
        def step(u, _):
            flux = jnp.exp(log_conductivity) * jnp.diff(u)
            return u + 0.2 * jnp.diff(jnp.pad(flux, 1)), None

        u, _ = lax.scan(step, u0, None, length=30)
        return jnp.mean((u - aim) ** 2)

    return loss, (draw.normal(16), draw.normal(15, scale=0.3))


@case(argnums=(0, 1))
def burgers_with_upwind_differences(draw):
    def loss(u0, viscosity):
        def step(_, u):
            left, right = u - jnp.roll(u, 1), jnp.roll(u, -1) - u
            slope = jnp.where(u > 0, left, right)
            return u - 0.1 * u * slope + viscosity * (right - left)

        return jnp.sum(lax.fori_loop(0, 15, step, u0) ** 2)

    return loss, (draw.array(np.sin(np.arange(14) * 2 * np.pi / 14 + 0.3) + 0.2), draw.array(0.1))


@case(argnums=(0, 1, 2, 3))
def gray_scott_reaction_diffusion(draw):
    def laplacian(u):
        return sum(jnp.roll(u, shift, axis) for shift in (-1, 1) for axis in (0, 1)) - 4 * u

    def loss(feed, kill, u, v):
        def step(state, _):
            u, v = state
            reaction = u * v**2
            new_u = u + 0.16 * laplacian(u) - reaction + feed * (1 - u)
            return (new_u, v + 0.08 * laplacian(v) + reaction - kill * v), None

        (u, v), _ = lax.scan(step, (u, v), None, length=8)
        return jnp.mean(v**2)

    return loss, (draw.array(0.035), draw.array(0.1), draw.uniform(0.5, 1, 6, 6), draw.uniform(0, 0.5, 6, 6))


@case(argnums=(0, 1, 2))
def continuous_cellular_automaton(draw):
    ring = jnp.fft.rfft2(draw.array(np.exp(-((np.hypot(*np.indices((8, 8)) - 3.5) - 2) ** 2))))

    def loss(world, mean, width):
        def step(world, _):
            excitation = jnp.fft.irfft2(jnp.fft.rfft2(world) * ring, s=(8, 8)) / 20
            return jnp.clip(
                world + 0.1 * (2 * jnp.exp(-(((excitation - mean) / width) ** 2)) - 1), 0, 1
            ), None

        return lax.scan(step, world, None, length=5)[0].mean()

    return loss, (draw.uniform(0.2, 0.8, 8, 8), draw.array(0.45), draw.array(0.15))


@case(argnums=(0, 1, 2))
def mean_field_ising(draw):
    def magnetisation(coupling, field, temperature):
        def step(_, m):
            return 0.5 * m + 0.5 * jnp.tanh((coupling + coupling.T) @ m / temperature + field)

        return jnp.mean(lax.fori_loop(0, 40, step, jnp.zeros_like(field)) ** 2)

    return magnetisation, (draw.normal(5, 5, scale=0.2), draw.normal(5), draw.array(1.5))


@case
def kepler_orbit_by_newton(draw):
    times = draw.uniform(0, 6, 9)

    def loss(p):
        mean_anomaly = p["rate"] * times + p["phase"]

        def newton(_, e):
            return e - (e - p["ecc"] * jnp.sin(e) - mean_anomaly) / (1 - p["ecc"] * jnp.cos(e))

        e = lax.fori_loop(0, 12, newton, mean_anomaly)
        x = p["a"] * (jnp.cos(e) - p["ecc"])
        y = p["a"] * jnp.sqrt(1 - p["ecc"] ** 2) * jnp.sin(e)
        return jnp.mean((x - 0.5) ** 2 + y**2)

    return loss, (
        {"rate": draw.array(1.1), "phase": draw.array(0.2), "ecc": draw.array(0.4), "a": draw.array(1.7)},
    )


@case(argnums=(0, 1, 2))
def gravity_of_planets_in_si_units(draw):
    def speed_squared(mass, position, momentum):
        gravity = 6.674e-11
        radius = jnp.linalg.norm(position)
        return jnp.sum((momentum / 1e24) ** 2) / 2 - gravity * mass / radius

    position, momentum = draw.array([1.2e11, 0.9e11, 1e9]), draw.array([2e28, -2.1e28, 1e26])
    return speed_squared, (draw.array(1.99e30), position, momentum)


@case(argnums=(0, 1))
def three_bodies_with_softening(draw):
    masses = np.array([1.0, 0.5, 0.2])

    def loss(x, v):
        def acceleration(x):
            d = x[None] - x[:, None]
            return jnp.sum(masses[:, None] * d / (jnp.sum(d**2, -1, keepdims=True) + 0.1) ** 1.5, axis=1)

        def step(state, _):
            x, v = state
            v = v + 0.05 * acceleration(x)
            return (x + 0.05 * v, v), None

        (x, v), _ = lax.scan(step, (x, v), None, length=30)
        return jnp.sum(x**2)

    return loss, (draw.normal(3, 2), draw.normal(3, 2, scale=0.3))


@case(argnums=(0, 1, 2))
def bloch_equations(draw):
    def signal(pulse, t1, t2):
        def step(m, b1):
            angle = jnp.hypot(b1[0], b1[1]) + 1e-3
            axis = jnp.stack([b1[0], b1[1], 1e-3 * angle]) / angle
            m = (
                m * jnp.cos(angle)
                + jnp.cross(axis, m) * jnp.sin(angle)
                + axis * (axis @ m) * (1 - jnp.cos(angle))
            )
            decay = jnp.exp(-0.1 / jnp.stack([t2, t2, t1]))
            return m * decay + jnp.array([0, 0, 1]) * (1 - decay), m[0]

        m, seen = lax.scan(step, draw.array([0.0, 0.0, 1.0]), pulse)
        return jnp.sum(seen**2) - m[2]

    return signal, (draw.normal(10, 2, scale=0.5), draw.array(1.2), draw.array(0.3))


@case
def quaternion_alignment(draw):
    a, b = draw.normal(6, 3), draw.normal(6, 3)

    def loss(q):
        w, *xyz = q / jnp.sqrt(q @ q)
        v = jnp.stack(xyz)
        rotated = a + 2 * jnp.cross(v, jnp.cross(v, a) + w * a)
        return jnp.sum((rotated - b) ** 2)

    return loss, (draw.normal(4),)


@case
def lagrangian_network(draw):
    q, v = draw.normal(2), draw.normal(2)

    def loss(params):
        def lagrangian(q, v):
            return jnp.sum(v**2) + forward(params, jnp.concatenate([q, v]), jax.nn.softplus)[0] * 0.1

        mass = jax.hessian(lagrangian, 1)(q, v)
        force = jax.grad(lagrangian)(q, v) - jax.jacfwd(jax.grad(lagrangian, 1))(q, v) @ v
        return jnp.sum(jnp.linalg.solve(mass, force) ** 2)

    return loss, (draw.layers(4, 6, 1),)


@case
def stiff_kinetics_by_implicit_euler(draw):
    def loss(log_rates):
        k = jnp.exp(log_rates)

        def field(y):
            slow, fast = k[0] * y[0], k[1] * y[1] * y[2]
            return jnp.stack([fast - slow, slow - fast - k[2] * y[1] ** 2, k[2] * y[1] ** 2])

        def newton(y, _, new):
            jacobian = jnp.eye(3) - 0.1 * jax.jacfwd(field)(new)
            return new - jnp.linalg.solve(jacobian, new - y - 0.1 * field(new))

        def step(y, _):
            y = lax.fori_loop(0, 6, partial(newton, y), y)
            return y, y[0]

        y, path = lax.scan(step, draw.array([1.0, 0.0, 0.0]), None, length=8)
        return path.sum() + y[2]

    return loss, (draw.array(np.log([0.4, 1e2, 1e4])),)


@case
def epidemic_with_a_switch(draw):
    def loss(p):
        def step(state, day):
            s, i = state
            rate = lax.cond(day < 10, lambda p: p["before"], lambda p: p["after"] * 0.8, p)
            new, gone = rate * s * i, jax.nn.sigmoid(p["recovery"]) * i
            return (s - new, i + new - gone), new

        start = (draw.array(0.99), draw.array(0.01))
        _, cases = lax.scan(step, start, jnp.arange(25))
        return jnp.sum((jnp.log(cases) + 4) ** 2)

    return loss, ({"before": draw.array(0.6), "after": draw.array(0.3), "recovery": draw.array(-1.5)},)


@case
def cart_pole_controls(draw):
    def cost(forces):
        def step(state, force):
            _, v, angle, spin = state
            push = (force + 0.05 * spin**2 * jnp.sin(angle)) / 1.1
            turn = 9.8 * jnp.sin(angle) - jnp.cos(angle) * push
            turn = turn / (0.5 * (4 / 3 - 0.1 * jnp.cos(angle) ** 2 / 1.1))
            push = push - 0.05 * turn * jnp.cos(angle) / 1.1
            new = state + 0.05 * jnp.stack([v, push, spin, turn])
            return new, jnp.sum(new**2) + 0.01 * force**2

        return lax.scan(step, draw.array([0.0, 0.0, 0.2, 0.0]), forces)[1].sum()

    return cost, (draw.normal(20, scale=0.5),)


@case(argnums=(0, 1))
def hodgkin_huxley_rates(draw):
    def fraction(x):
        small = jnp.abs(x) < 1e-4
        return jnp.where(small, 1 - x / 2, x / -jnp.expm1(-jnp.where(small, 1.0, x)) * jnp.exp(-x))

    def loss(conductance, current):
        def step(carry, _):
            v, n = carry
            opening, closing = 0.1 * fraction(-(v + 55) / 10), 0.125 * jnp.exp(-(v + 65) / 80)
            n = n + 0.05 * (opening * (1 - n) - closing * n)
            v = v + 0.05 * (current - conductance * n**4 * (v + 77) - 0.3 * (v + 54.4))
            return (v, n), v

        _, vs = lax.scan(step, (draw.array(-65.0), draw.array(0.32)), None, length=60)
        return jnp.mean((vs + 60) ** 2)

    return loss, (draw.array(36.0), draw.array(10.0))
